"""What was called attempts counts leases; an attempt is a run of its own."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("requests_app", "0002_append_only")]

    operations = [
        migrations.RenameField(model_name="erasurerun", old_name="attempts", new_name="leases")
    ]
