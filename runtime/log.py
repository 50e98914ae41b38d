"""What the library tells the program that it is a part of: records of the logger "fsae", unseen until that listens."""

import logging

LOGGER = logging.getLogger("fsae")

LOGGER.addHandler(logging.NullHandler())  # else Python prints the warnings of a program that has no logging on stderr

WARNING = "warning: "  # how a message begins that is one


def to_log(message: str) -> None:
    """Nothing; the message is a record of level WARNING where it begins with that word, else of level INFO."""
    if message.startswith(WARNING):
        LOGGER.warning("%s", message.removeprefix(WARNING))
    else:
        LOGGER.info("%s", message)
