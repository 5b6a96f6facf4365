"""The verdict as JUnit XML: what CI systems draw as a list of tests."""

from xml.etree.ElementTree import Element, SubElement, indent, tostring

from pipeline.release.bundle import Release
from pipeline.report.text import limit_words, measured_words
from profiles.gate import Check
from profiles.printable import one_line, printable


def junit(found: Release) -> str:
    """A test suite for each target, a test case for each check: a fail is a failure, an
    inconclusive check an error, a pass and a waived check succeed.
    """
    suites = Element("testsuites", name="slimgate")
    for target in found.targets:
        checks, name = target.verdict.checks, target.terms.device_name
        suite = SubElement(
            suites,
            "testsuite",
            name=name,
            tests=str(len(checks)),
            failures=str(sum(check.status == "fail" for check in checks)),
            errors=str(sum(check.status == "inconclusive" for check in checks)),
        )
        for check in checks:
            _case(suite, name, check)
    _write_out_control_characters(suites)
    indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(suites, encoding="unicode")}\n'


def _write_out_control_characters(suites: Element) -> None:
    """XML has no way to hold most of them, and what reads it puts names and reasons into logs."""
    for element in suites.iter():
        element.attrib.update({key: one_line(value) for key, value in element.attrib.items()})
        element.text = element.text and printable(element.text)


def _case(suite: Element, target: str, check: Check) -> None:
    case = SubElement(suite, "testcase", classname=f"slimgate.{target}", name=check.name)
    figures = f"{measured_words(check)}, {limit_words(check)}"
    kinds = {"fail": "failure", "inconclusive": "error"}
    if check.status in kinds:
        problem = SubElement(case, kinds[check.status], message=check.reason)
        problem.text = f"measured [bounds], limit: {figures}"
    else:
        SubElement(case, "system-out").text = " ".join([figures, check.reason]).strip()
