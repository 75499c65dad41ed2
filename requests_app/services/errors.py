"""What a service may refuse; `str(error)` is fit to show to staff and holds no personal data."""


class ServiceError(Exception):
    """A service refused; nothing was changed."""


class NotAllowed(ServiceError):
    """This person or role may not do it."""


class NotFound(ServiceError):
    """There is no such case, run or letter."""


class Invalid(ServiceError):
    """A value is missing or does not fit; the text says which and what to do."""


class WrongState(Invalid):
    """The case or run is not where this step is possible; somebody may have moved it meanwhile."""


class Conflict(ServiceError):
    """The same id came before with another content."""


class CodeWrong(ServiceError):
    """Reference and code do not belong together."""


class CodeExpired(ServiceError):
    """The code was right for this case once; a new one has to be asked for."""


class TooManyTries(ServiceError):
    """The code was tried too often; a new one has to be asked for."""


class LeaseLost(ServiceError):
    """Another worker holds the run, or it ended; the caller must stop and write nothing."""
