raise ConnectionError("the settings server is away")
