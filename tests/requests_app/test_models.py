"""What every table must say about itself."""

import pytest
from django.apps import apps
from django.db import models

MODELS = list(apps.get_app_config("requests_app").get_models())


@pytest.mark.parametrize("model", MODELS, ids=lambda model: str(model.__name__))
def test_every_table_says_what_personal_data_it_holds(model: type[models.Model]) -> None:
    line = next((s for s in (model.__doc__ or "").splitlines() if "Personal data:" in s), "")
    assert len(line.strip()) > len("Personal data: ")


@pytest.mark.parametrize("model", MODELS, ids=lambda model: str(model.__name__))
def test_no_table_overrides_save_or_delete(model: type[models.Model]) -> None:
    assert "save" not in vars(model)
    assert "delete" not in vars(model)


def test_what_the_record_keeps_goes_with_nothing_else() -> None:
    """Rows of the record are protected: only a run's own progress and results go with the run."""
    cascading = {
        (model.__name__, field.name)
        for model in MODELS
        for field in model._meta.get_fields()
        if isinstance(field, models.ForeignKey) and field.remote_field.on_delete is models.CASCADE
    }
    assert cascading == {("RunEvent", "run"), ("ProbeResult", "run")}
