"""The one exception that the report builder shows to people: one line, no traceback."""


class BuildError(Exception):
    """What was expected, what came and what to do, in one line; `status` is the exit status of the command."""

    def __init__(self, message: str, status: int = 1):
        super().__init__(" ".join(message.split()))
        self.status = status
