from questline import job


@job
def upload(data: bytes) -> None: ...
