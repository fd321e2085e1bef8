"""Times as people and other programs read them."""


def rfc3339(milliseconds: int) -> str:
    """A time since 1970 in UTC, to the millisecond."""
    seconds, fraction = divmod(milliseconds, 1000)
    days, rest = divmod(seconds, 86_400)
    # Civil date from days: years begin in March, so that the leap day is the last day of its year; 400 years repeat.
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    from_march = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * from_march + 2) // 5 + 1
    month = from_march + 3 if from_march < 10 else from_march - 9
    year = year_of_era + era * 400 + (1 if month <= 2 else 0)
    hours, minutes = rest // 3600, rest % 3600 // 60
    return f"{year:04d}-{month:02d}-{day:02d}T{hours:02d}:{minutes:02d}:{rest % 60:02d}.{fraction:03d}Z"
