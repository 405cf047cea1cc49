"""The equations of chapter 22 beside the code, on numbers that the chapter does not use."""
