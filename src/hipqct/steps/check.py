"""What can be said of the sheet's scans before a long run, from their headers alone."""

from collections.abc import Iterable, Iterator

from hipqct.density import is_usual_calibration
from hipqct.errors import ScanError
from hipqct.io.image_headers import read_image_header
from hipqct.io.scans import check_scan
from hipqct.sheet import Subject, scan_keys


def check_subjects(subjects: Iterable[Subject]) -> Iterator[tuple[Subject, list[tuple[str, str]]]]:
    """Each subject with all there is to say of it: (severity, text), at least one.

    Severities: ``error`` (the run will refuse it), ``warning``, ``excluded``, ``phantom`` (a digital one:
    the workflow will make the scan) and ``ok``.
    """
    subjects, first_with = list(subjects), {}
    for subject, scan in zip(subjects, scan_keys(subjects), strict=True):
        if subject.exclude:
            yield subject, [("excluded", subject.exclude)]
            continue
        findings = [*_scan_findings(subject), *_reference_findings(subject)]
        first = first_with.setdefault(scan, subject.subject)
        if first != subject.subject:
            findings.append(("warning", f"the same scan as {first}: it counts twice"))
        if subject.slope is not None and not is_usual_calibration(subject.slope, subject.intercept):
            pair = f"slope {subject.slope:g} and intercept {subject.intercept:g}"
            usual = "those of calibration phantoms in use"
            findings.append(("warning", f"{pair} are unlike {usual}: swapped, or inverse?"))
        yield subject, findings or [("ok", "")]


def _scan_findings(subject: Subject) -> list[tuple[str, str]]:
    if not subject.scan.exists():
        return [("phantom", "the workflow will make this synthetic scan")]
    try:
        return check_scan(subject.scan, subject.series_uid, subject.sex, subject.age)
    except OSError as error:
        return [("error", f"{subject.scan} cannot be read: {error.strerror}")]
    except Exception as error:  # one odd scan must not end the check of all
        return [("error", f"{subject.scan} cannot be checked: unexpected {type(error).__name__}")]


def _reference_findings(subject: Subject) -> list[tuple[str, str]]:
    findings = []
    for side, path in subject.reference.items():
        if side not in subject.sides:
            findings.append(("warning", f"reference_{side} is not used: side is {subject.sides[0]}"))
        try:
            if path.exists():  # else the workflow makes it
                read_image_header(path)
        except ScanError as error:
            findings.append(("error", f"reference_{side}: {error}"))
    return findings
