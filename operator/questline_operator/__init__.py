"""The Questline operator: a pure core that decides, and a thin shell that reads and writes."""
