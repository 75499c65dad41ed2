"""Italian without a leading zero or the day of the week: 2 novembre 2026."""

DATE_FORMAT = "j F Y"
DATETIME_FORMAT = "j F Y H:i"
