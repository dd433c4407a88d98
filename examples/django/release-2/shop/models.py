"""Expand: `title` will replace `name`. This release writes both, and reads what there is.

Release 1 runs beside it until it has drained, and may take the service back: it knows nothing of `title`, and reads
`name`. Release 3 knows nothing of `name`. So the database has a default for each."""

from django.db import models


class Item(models.Model):
    name = models.CharField(max_length=100, db_default="")
    title = models.CharField(max_length=100, db_default="")

    @property
    def text(self):
        return self.title or self.name


def add(text):
    return Item.objects.create(name=text, title=text)
