from django.db import models


class Item(models.Model):
    name = models.CharField(max_length=100)

    @property
    def text(self):
        return self.name


def add(text):
    return Item.objects.create(name=text)
