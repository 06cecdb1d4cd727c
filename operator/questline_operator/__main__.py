"""`python -m questline_operator`: run the operator; `python -m questline_operator apply-crds DIR`: install the CRDs."""

from questline_operator.main import main

if __name__ == "__main__":
    raise SystemExit(main())
