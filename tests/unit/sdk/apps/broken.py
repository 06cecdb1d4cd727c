raise RuntimeError("no database in this image")
