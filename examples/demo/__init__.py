"""The main job on a real cluster: a chain over a picture and a broadcast. `python -m examples.demo`."""
