"""The vault: ciphertext and wrapped keys. `requests_app.vault` encrypts and decrypts."""

import uuid

from django.db import models

from requests_app.models.record import Case


class CaseKey(models.Model):
    """The data key of one case, wrapped by the key-encryption key outside the database.

    Personal data: none itself; destroying it makes every vault item of the case unreadable.
    """

    case = models.OneToOneField(Case, on_delete=models.PROTECT, related_name="key")
    wrapped = models.BinaryField(null=True)  # nonce + AES-256-GCM ciphertext; NULL once destroyed
    destroyed_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"key of {self.case_id}"


class VaultItem(models.Model):
    """One encrypted value of a case, e.g. `email`, `name`, `facts`, `letter/<id>`.

    Personal data: whatever the case holds, AES-256-GCM under the case's key; goes with sealing.
    """

    case = models.ForeignKey(Case, on_delete=models.PROTECT, related_name="vault_items")
    name = models.CharField(max_length=80)
    version = models.PositiveIntegerField(default=1)
    ciphertext = models.BinaryField()  # nonce + ciphertext; AAD = (case id, name, version)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["case", "name"], name="vault_item_once")]

    def __str__(self) -> str:
        return f"{self.case_id}/{self.name}"


class Draft(models.Model):
    """Answers of a form that has not been sent yet.

    Personal data: the answers, encrypted under a key wrapped like a case key; purged in 24 hours.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    wrapped = models.BinaryField()
    ciphertext = models.BinaryField()
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    def __str__(self) -> str:
        return str(self.id)
