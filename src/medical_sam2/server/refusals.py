"""What the server says no to, with the status of the answer."""

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


class Missing(Refusal):
    """There is no such thing."""

    def __init__(self, what: str) -> None:
        super().__init__(HTTPStatus.NOT_FOUND, f"there is no such {what}; it may have been closed")


class Unusable(Refusal):
    """The request makes no sense."""

    def __init__(self, problem: str) -> None:
        super().__init__(HTTPStatus.UNPROCESSABLE_ENTITY, problem)


class Full(Refusal):
    """A limit of the server is reached."""

    def __init__(self, problem: str) -> None:
        super().__init__(HTTPStatus.SERVICE_UNAVAILABLE, problem)


class TooLarge(Refusal):
    """More bytes than are allowed."""

    def __init__(self, problem: str) -> None:
        super().__init__(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, problem)


def told(error: MedicalSam2Error) -> Refusal:
    """An error of the package as an answer, without its subject: that is a path of the server."""
    problem = f"{error.problem}; {error.remedy}" if error.remedy else error.problem
    status = HTTPStatus.INSUFFICIENT_STORAGE if isinstance(error, ResourceError) else HTTPStatus.UNPROCESSABLE_ENTITY
    return Refusal(status, " ".join(problem.split()))


def disk_is_full(error: OSError) -> Refusal | None:
    """What to say of a disk, quota or size of file that is used up; None for any other error of the system."""
    if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return None
    return Refusal(HTTPStatus.INSUFFICIENT_STORAGE, "the disk is full; nothing was changed: free some space, and do it again")


def explained(error: BaseException) -> str:
    """What to tell of whatever ended a job."""
    if isinstance(error, MedicalSam2Error):
        return told(error).problem
    if isinstance(error, Refusal):
        return error.problem
    if isinstance(error, OSError) and (full := disk_is_full(error)):
        return full.problem
    if isinstance(error, MemoryError):
        return "the memory is exhausted; close other sessions"
    return f"this is a defect of medsam2 ({type(error).__name__}); please report it"
