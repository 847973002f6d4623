"""What the server says no to, with the status of the answer."""

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
