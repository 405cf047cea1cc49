"""One kind of error for everything a user can get wrong: a sentence naming the thing and the remedy."""


class LabError(ValueError):
    """Bad input. The message is one sentence, fit to be shown as it is."""
