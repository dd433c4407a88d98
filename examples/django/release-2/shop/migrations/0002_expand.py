"""Before the upgrade to release 2. Release 1 serves on while this runs, and after it."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [
        migrations.AddField("item", "title", models.CharField(max_length=100, db_default="")),
        migrations.AlterField("item", "name", models.CharField(max_length=100, db_default="")),
    ]
