"""How course/ becomes notebooks: syllabus, chapters, exercises and progress, glossary, recordings."""
