"""Errors that a user can mend; the command line prints them without a traceback."""


class UsageError(ValueError):
    """A request that cannot be carried out; the message names the bad value and the valid ones."""


class DataError(UsageError):
    """Data that is missing, incomplete or corrupt; the message names the file and what it lacks."""


class DivergedError(ArithmeticError):
    """Training met too many non-finite losses or gradients in a row."""


class ContractError(TypeError):
    """A method or wrapper broke its contract; the message names both."""
