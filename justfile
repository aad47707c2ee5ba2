# What one does here, for https://just.systems; each line can as well be typed.

# the virtual environment in .venv, with everything
setup:
    python3 -m venv .venv
    .venv/bin/pip install -q -c constraints.txt -e '.[test]'

# the tests of one room, such as `just test tests/unit`; without a name all of them
test *what:
    .venv/bin/pytest {{ if what == "" { "-n auto" } else { what } }}

# lint, types and the import contract; puts the layout right
lint:
    .venv/bin/ruff check --fix .
    .venv/bin/ruff format .
    .venv/bin/mypy --strict
    .venv/bin/lint-imports

# the documentation's site in site/
docs:
    .venv/bin/python tools/make_site.py site

# all that has to hold before a change is taken
ci:
    .ci/run
