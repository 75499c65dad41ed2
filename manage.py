#!/usr/bin/env python
"""Django's command line: `python manage.py help` lists every command of the project."""

import os
import sys


def main() -> None:
    os.umask(0o077)  # database, outbox and keys are for their owner alone
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "rtbf.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
