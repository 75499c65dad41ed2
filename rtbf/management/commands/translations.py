"""`manage.py translations`: bring the catalogues up to date with the source, and compile them."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from rtbf import translations


class Command(BaseCommand):
    help = (
        "Add new texts to locale/<language>/LC_MESSAGES/django.po, drop those that are gone, and"
        " write django.mo beside it. Ends with an error while a catalogue has gaps."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--add", choices=sorted(translations.PLURALS), help="start the catalogue of a language"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["add"]:
            translations.catalogue(options["add"]).parent.mkdir(parents=True, exist_ok=True)
        gaps = 0
        for language in sorted({*translations.languages(), options["add"]} - {None}):
            found = translations.updated(language)
            path = translations.catalogue(language)
            found.save(str(path))
            faults = translations.faults(found)
            gaps += len(faults)
            if faults:
                path.with_suffix(".mo").unlink(missing_ok=True)  # not offered with gaps
            else:
                path.with_suffix(".mo").write_bytes(translations.compiled(found))
            self.stdout.write(f"{language}: {len(found)} texts, {len(faults)} to do")
            for fault in faults:
                self.stderr.write(f"  {fault}")
        if gaps:
            raise CommandError(f"{gaps} texts are to be translated.")
