"""After the upgrade to release 3, when nobody can take the service back to release 2."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("shop", "0003_fill")]
    operations = [migrations.RemoveField("item", "name")]
