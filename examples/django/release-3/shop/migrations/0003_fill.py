"""Before the upgrade to release 3: what release 1 has written gets its title. Nobody writes without one any more."""

from django.db import migrations
from django.db.models import F


def fill(apps, schema_editor):
    apps.get_model("shop", "Item").objects.filter(title="").update(title=F("name"))


class Migration(migrations.Migration):
    dependencies = [("shop", "0002_expand")]
    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
