"""Every error that JADE raises on purpose.

    JadeError
     ├── ConfigError   (ValueError)    an option, file or argument that cannot be used as given
     ├── FormatError   (ValueError)    a model response outside its role's grammar; caught in `graphs.acting` only
     ├── PromptError   (ValueError)    a prompt that cannot be made to fit the context, or that the template refuses
     ├── SetupError    (RuntimeError)  something that must be installed, downloaded or converted is missing
     ├── RetrieverError (RuntimeError) the index cannot answer: missing, empty, foreign, unreadable
     ├── ServerError   (RuntimeError)  an inference server that does not answer, or not as agreed
     └── LedgerError   (RuntimeError)  a recorded execution that cannot be read or replayed

A message says what was given, what is allowed and what to do. Programming mistakes stay plain Python exceptions.
"""


class JadeError(Exception):
    """Base of all errors meant for the user; the command line prints them without a traceback."""


class ConfigError(JadeError, ValueError):
    """An option, file or argument that cannot be used as given."""


class FormatError(JadeError, ValueError):
    """A model response outside its role's grammar.

    Attributes:
        reason: Short, stable phrase naming the violated rule, for metrics ("no <answer> tag", "truncated").
        text: The offending response.
    """

    def __init__(self, reason: str, text: str = "") -> None:
        """Keep `reason` and `text` apart so that metrics never contain model text."""
        super().__init__(reason)
        self.reason = reason
        self.text = text


class PromptError(JadeError, ValueError):
    """A prompt that cannot be made to fit the model's context, or cannot be rendered at all."""


class SetupError(JadeError, RuntimeError):
    """Something that must be installed, downloaded or converted first is missing."""


class RetrieverError(JadeError, RuntimeError):
    """The index cannot answer: missing, empty, built by another embedder, or unreadable."""


class ServerError(JadeError, RuntimeError):
    """An inference server cannot be reached, refuses a request, answers something else, or was told to stop.

    Attributes:
        status: HTTP status of a refusal that trying again does not change; None = something else happened.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        """Note the status beside the message."""
        super().__init__(message)
        self.status = status


class LedgerError(JadeError, RuntimeError):
    """A recorded execution that cannot be read or replayed."""
