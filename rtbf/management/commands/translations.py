"""`manage.py translations`: bring the catalogues up to date with the source, and compile them."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from requests_app.commands import ToldCommand
from rtbf import translations


class Command(ToldCommand):
    help = (
        "Add new texts to locale/<language>/LC_MESSAGES/django.po, drop those that are gone, and"
        " write django.mo beside it. Ends with an error while a catalogue has gaps."
    )
    examples = (
        ("translations", "after a text was added or changed"),
        ("translations --add pl", "start the catalogue of a language"),
    )
    exits = "0: nothing is missing; 1: a catalogue has gaps; 2: the command line is wrong"
    reports = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--add", choices=sorted(translations.PLURALS), help="start the catalogue of a language"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["add"]:
            translations.catalogue(options["add"]).parent.mkdir(parents=True, exist_ok=True)
        gaps, rows = 0, {}
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
            rows[language] = {"texts": len(found), "to_do": len(faults)}
            for fault in faults:
                self.stderr.write(f"  {language}: {fault}")
        self.tell(
            {"languages": rows},
            options,
            *(f"{name}: {row['texts']} texts, {row['to_do']} to do" for name, row in rows.items()),
        )
        if gaps:
            raise CommandError(f"{gaps} texts are to be translated.")
