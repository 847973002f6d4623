"""A local server with a page (click, see the outline, correct it, download it), and the protocols of other viewers.

`app.serve` runs it with `security.ServerSettings` and `inference_queue.InferenceQueue`; `medsam2 serve` imports these three.
It may import everything below the command line, and nothing imports it but that. Here is what all of it says no to, with the
status of the answer.
"""

import errno
from http import HTTPStatus

from medical_sam2.errors import MedicalSam2Error, ResourceError


class Refusal(Exception):  # noqa: N818 - the tree is read as a sentence
    """A request that is not served.

    Args:
        status: of the answer.
        problem: one line for a person.
    """

    def __init__(self, status: HTTPStatus, problem: str) -> None:
        self.status, self.problem = status, problem
        super().__init__(problem)


class Conflict(Refusal):
    """The session has moved on, or is busy: nothing was changed."""

    def __init__(self, problem: str) -> None:
        super().__init__(HTTPStatus.CONFLICT, problem)


class NotFound(Refusal):
    """There is no such thing."""

    def __init__(self, what: str) -> None:
        super().__init__(HTTPStatus.NOT_FOUND, f"there is no such {what}; it may have been closed")


class InvalidRequest(Refusal):
    """The request makes no sense."""

    def __init__(self, problem: str) -> None:
        super().__init__(HTTPStatus.UNPROCESSABLE_ENTITY, problem)


class LimitReached(Refusal):
    """A limit of the server is reached."""

    def __init__(self, problem: str) -> None:
        super().__init__(HTTPStatus.SERVICE_UNAVAILABLE, problem)


class TooLarge(Refusal):
    """More bytes than are allowed."""

    def __init__(self, problem: str) -> None:
        super().__init__(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, problem)


class AmbiguousSource(InvalidRequest):
    """A source that can be read in several ways.

    Args:
        choices: one line each.
    """

    def __init__(self, problem: str, choices: tuple[str, ...]) -> None:
        super().__init__(problem)
        self.choices = choices


def disk_is_full(error: OSError) -> Refusal | None:
    """What to say of a disk, quota or size of file that is used up; None for any other error of the system."""
    if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return None
    return Refusal(HTTPStatus.INSUFFICIENT_STORAGE, "the disk is full; nothing was changed: free some space, and do it again")


def refusal_for(error: BaseException) -> Refusal | None:
    """What to answer to an error; None for a defect.

    Of an error of the package its subject is left out: that is a path of the server.
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, MedicalSam2Error):
        problem = " ".join((f"{error.problem}; {error.remedy}" if error.remedy else error.problem).split())
        return (
            Refusal(HTTPStatus.INSUFFICIENT_STORAGE, problem) if isinstance(error, ResourceError) else InvalidRequest(problem)
        )
    if isinstance(error, OSError):
        return disk_is_full(error)
    if isinstance(error, MemoryError):
        return Refusal(HTTPStatus.INSUFFICIENT_STORAGE, "the memory is exhausted; close other sessions")
    return None
