"""The function tables of Kubernetes' CEL environment, each function by examples that must hold."""

import pytest

from scheduler.dra.cel.selectors import CelCompileError, CelDevice, CelRuntimeError, compile_selector

DEVICE = CelDevice(driver="d", attributes={"d": {"text": "NVIDIA H100", "none": ""}})


def holds(expression: str) -> bool:
    return compile_selector(expression, list_attributes=True).matches(DEVICE)


@pytest.mark.parametrize(
    "expression",
    [
        "'abc'.charAt(1) == 'b' && 'abc'.charAt(3) == '' && 'é'.charAt(0) == 'é'",
        "'abcabc'.indexOf('c') == 2 && 'abcabc'.indexOf('c', 3) == 5 && 'abc'.indexOf('x') == -1",
        "'abc'.indexOf('') == 0 && 'abc'.indexOf('', 9) == 3",
        "'abcabc'.lastIndexOf('c') == 5 && 'abcabc'.lastIndexOf('c', 4) == 2 && 'abc'.lastIndexOf('') == 3",
        "['a', 'b'].join() == 'ab' && ['a', 'b'].join('-') == 'a-b'",
        "'TacoCÆt'.lowerAscii() == 'tacocÆt' && 'tacocét'.upperAscii() == 'TACOCéT'",
        "'abab'.replace('a', 'x') == 'xbxb'",
        "'abab'.replace('a', 'x', 1) == 'xbab'",
        "'ab'.replace('', '-') == '-a-b-'",
        "'aa'.replace('a', 'x', 0) == 'aa' && 'aa'.replace('a', 'x', -5) == 'xx'",
        "'a,b,c'.split(',') == ['a', 'b', 'c'] && 'a,b,c'.split(',', 2) == ['a', 'b,c']",
        "'a,b'.split(',', 0) == [] && 'a,b'.split(',', -1) == ['a', 'b'] && 'abc'.split('') == ['a', 'b', 'c']",
        "'abc'.split('', 2) == ['a', 'bc'] && ''.split(',') == ['']",
        "'abc'.substring(1) == 'bc' && 'abc'.substring(1, 2) == 'b' && 'abc'.substring(3) == ''",
        "' \\t\\n a b \\u2003'.trim() == 'a b'",
        "strings.quote('a\\n\"b\\\\') == '\"a\\\\n\\\\\"b\\\\\\\\\"'",
        "'abc'.contains('b') && 'abc'.startsWith('ab') && 'abc'.endsWith('bc') && !'abc'.startsWith('bc')",
        "'%s is %d'.format(['a', 1]) == 'a is 1' && '100%%'.format([]) == '100%'",
        "'%x %X %o %b %x'.format([255, 255u, 8, -5, 'hi']) == 'ff FF 10 -101 6869'",
        "'%.2f %f'.format([1.239, 2.0]) == '1.24 2.000000' && '%.1f'.format([12345.67]) == '12,345.7'",
        "'%.3e'.format([1052.0]) == '1.052\\u202f\\u00d7\\u202f10\\u2070\\u00b3'",
        "'%s %s %s'.format([[1, 'a'], {'k': true}, null]) == '[1, \"a\"] {\"k\":true} null'",
        "'%s %s'.format([duration('90s'), timestamp(0)]) == '90s 1970-01-01T00:00:00Z'",
    ],
)
def test_strings(expression: str) -> None:
    assert holds(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "'abc'.charAt(4) == ''",
        "'abc'.substring(2, 1) == ''",
        "'abc'.substring(4) == ''",
        "'abc'.indexOf('a', -1) == 0",
        "'%d'.format(['a']) == ''",
        "'%s'.format([]) == ''",
        "'%q'.format([1]) == ''",
        "'%'.format([1]) == ''",
        "'%.101f'.format([1.0]) == ''",
        "'%s'.format([quantity('1')]) == ''",
        "(dyn(['a']) + dyn([1])).join() == ''",
    ],
)
def test_strings_that_fail(expression: str) -> None:
    with pytest.raises(CelRuntimeError):
        holds(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "'asymmetric'.matches('[^a]?sym') && matches('abc', '^a.c$') && !'abc'.matches('^b')",
        "'a\\nb'.matches('a.b') == false && 'a\\nb'.matches('(?s)a.b') && 'ABC'.matches('(?i)b')",
        "'é1'.matches('^\\\\pL\\\\d$') && !'५'.matches('\\\\d')",
        "'abc 123'.find('[0-9]+') == '123' && 'abc'.find('xyz') == '' && 'né1'.find('.1') == 'é1'",
        "'123 abc 456'.findAll('[0-9]+') == ['123', '456'] && '1 2 3'.findAll('[0-9]', 2) == ['1', '2']",
        "'1 2'.findAll('x') == [] && '1 2'.findAll('[0-9]', 0) == []",
        "'abba'.findAll('b*') == ['', 'bb', ''] && 'éa'.findAll('x*') == ['', '', '']",
        "device.attributes['d'].text.matches('H100|H200') && device.attributes['d'].none.matches('^$')",
    ],
)
def test_regular_expressions_are_re2(expression: str) -> None:
    assert holds(expression)


@pytest.mark.parametrize("pattern", ["(?=a)", "(?<!a)b", "(a)\\\\1", "(?>a)", "a{1001}", "("])
def test_what_re2_does_not_know_is_refused_before_any_device_is_looked_at(pattern: str) -> None:
    with pytest.raises(CelCompileError, match="invalid matches argument"):
        holds(f"device.driver.matches('{pattern}')")
    with pytest.raises(CelCompileError):
        holds(f"device.driver.find('{pattern}') == ''")


def test_a_pattern_that_would_explode_in_a_backtracking_matcher_is_no_problem() -> None:
    assert not holds(f"'{'a' * 2000}'.matches('^(a|a)*(a|aa)+b$')")


@pytest.mark.parametrize(
    "expression",
    [
        "[1, 2, 2].isSorted() && !['b', 'a'].isSorted() && [].isSorted()",
        "[1, 2].sum() == 3 && [1.5, 2.5].sum() == 4.0 && [1u].sum() == 1u && dyn([]).sum() == 0",
        "[duration('1s'), duration('2s')].sum() == duration('3s')",
        "[2, 1, 3].min() == 1 && [2, 1, 3].max() == 3 && ['b', 'a'].max() == 'b'",
        "[1, 2, 1].indexOf(1) == 0 && [1, 2, 1].lastIndexOf(1) == 2 && [1].indexOf(5) == -1",
        "[1, 2, 3, 4].slice(1, 3) == [2, 3] && [3, 1, 2].sort() == [1, 2, 3] && [1, 2].reverse() == [2, 1]",
        "[1, 2, 2, 3, 3].distinct() == [1, 2, 3] && (dyn([1]) + dyn([1.0])).distinct().size() == 1",
        "[[1], [2, 3]].flatten() == [1, 2, 3] && (dyn([1]) + dyn([[2]]) + dyn([[[3]]])).flatten(2) == [1, 2, 3]",
        "lists.range(3) == [0, 1, 2] && lists.range(0) == [] && lists.range(-1) == []",
        "sets.contains([1, 2, 3], [2]) && sets.contains([1], []) && !sets.contains([1], [2])",
        "sets.equivalent([1, 2], [2, 1, 1]) && sets.intersects([1, 2], [2, 3]) && !sets.intersects([1], [])",
        "[1, 2].includes(2) && !['a'].includes('b') && dyn('a').includes('a') && !dyn('a').includes(1)",
    ],
)
def test_lists_and_sets(expression: str) -> None:
    assert holds(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "[].min() == 1",
        "(dyn([1]) + dyn(['a'])).sort() == []",
        "[1].slice(0, 2) == []",
        "dyn(['a']).sum() == 0",
        "[9223372036854775807, 1].sum() == 0",
        "(dyn([1]) + dyn(['a'])).max() == 1",
        "[[1]].flatten() == dyn(1).first().value()",
    ],
)
def test_lists_that_fail(expression: str) -> None:
    with pytest.raises(CelRuntimeError):
        holds(expression)


def test_includes_looks_at_48_values_and_no_further() -> None:
    values = ", ".join(f"'v{i}'" for i in range(49))
    assert holds(f"[{values}].includes('v47')")
    with pytest.raises(CelRuntimeError, match="cannot be applied to lists longer than 48 values"):
        holds(f"[{values}].includes('v48')")


@pytest.mark.parametrize(
    "expression",
    [
        "duration('1h30m') == duration('90m')",
        "duration('-1.5s').getSeconds() == -1",
        "duration('0') == duration('0s')",
        "duration('90m').getHours() == 1",
        "duration('90m').getMinutes() == 90",
        "duration('1.5s').getMilliseconds() == 1500",
        "string(duration('1m0.25s')) == '60.25s' && int(duration('1us')) == 1000",
        "timestamp('2024-02-29T12:34:56.789Z').getFullYear() == 2024",
        "timestamp('2024-02-29T12:34:56Z').getMonth() == 1 && timestamp('2024-02-29T12:34:56Z').getDate() == 29",
        "timestamp('2024-02-29T12:34:56Z').getDayOfMonth() == 28",
        "timestamp('2024-02-29T12:34:56Z').getDayOfYear() == 59",
        "timestamp('2024-02-29T12:34:56Z').getDayOfWeek() == 4 && timestamp('2024-02-29T12:34:56Z').getHours() == 12",
        "timestamp('2024-02-29T23:34:56Z').getDate('+02:00') == 1",
        "timestamp('2024-03-01T00:10:00Z').getHours('-00:20') == 23",
        "timestamp('2024-02-29T12:34:56Z').getMinutes() == 34",
        "timestamp('1969-12-31T23:59:59.5Z').getMilliseconds() == 500",
        "int(timestamp('1969-12-31T23:59:59.5Z')) == -1 && timestamp(0) == timestamp('1970-01-01T01:00:00+01:00')",
        "string(timestamp('0001-01-01T00:00:00Z')) == '0001-01-01T00:00:00Z'",
        "string(timestamp(1.5 > 1.0 ? 1 : 0)) == '1970-01-01T00:00:01Z'",
        "timestamp('2024-02-28T23:00:00Z') + duration('2h') == timestamp('2024-02-29T01:00:00Z')",
        "timestamp('2024-03-01T00:00:00Z') - timestamp('2023-03-01T00:00:00Z') == duration('8784h')",
        "timestamp('2000-01-01T00:00:00Z') < timestamp('2000-01-01T00:00:00.000000001Z')",
    ],
)
def test_durations_and_timestamps(expression: str) -> None:
    assert holds(expression)


def test_a_named_time_zone_is_refused_since_it_would_need_a_database() -> None:
    with pytest.raises(CelRuntimeError, match="only UTC and offsets"):
        holds("timestamp(0).getHours('Europe/Berlin') == 1")


@pytest.mark.parametrize(
    "text", ["2023-02-29T00:00:00Z", "2024-01-01", "2024-01-01T24:00:00Z", "10000-01-01T00:00:00Z"]
)
def test_a_time_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(CelCompileError, match="invalid timestamp argument"):
        holds(f"timestamp('{text}') == timestamp(0)")


@pytest.mark.parametrize(
    "expression",
    [
        "isIP('127.0.0.1') && isIP('::1') && !isIP('127.0.0.256') && !isIP(':::1') && !isIP('01.2.3.4')",
        "!isIP('::ffff:1.2.3.4') && !isIP('fe80::1%eth0')",
        "ip('127.0.0.1').family() == 4 && ip('::1').family() == 6 && string(ip('2001:DB8::1')) == '2001:db8::1'",
        "ip.isCanonical('2001:db8::abcd')",
        "!ip.isCanonical('2001:DB8::ABCD')",
        "!ip.isCanonical('2001:db8::0:0:0:abcd')",
        "ip('0.0.0.0').isUnspecified()",
        "ip('::').isUnspecified()",
        "ip('127.3.0.1').isLoopback()",
        "ip('::1').isLoopback()",
        "ip('224.0.0.1').isLinkLocalMulticast() && !ip('224.0.1.1').isLinkLocalMulticast()",
        "ip('ff02::1').isLinkLocalMulticast() && !ip('fd00::1').isLinkLocalMulticast()",
        "ip('169.254.169.254').isLinkLocalUnicast()",
        "ip('fe80::1').isLinkLocalUnicast()",
        "!ip('fd80::1').isLinkLocalUnicast()",
        "ip('192.168.0.1').isGlobalUnicast()",
        "!ip('255.255.255.255').isGlobalUnicast()",
        "!ip('ff00::1').isGlobalUnicast()",
        "ip('::1') == ip('0:0:0:0:0:0:0:1') && ip('1.2.3.4') != ip('1.2.3.5')",
        "isCIDR('192.168.0.0/16')",
        "isCIDR('::1/128')",
        "!isCIDR('192.168.0.0/33')",
        "!isCIDR('1.2.3.4')",
        "!isCIDR('1.2.3.4/08')",
        "cidr('192.168.0.0/24').containsIP(ip('192.168.0.1')) && !cidr('192.168.0.0/24').containsIP('192.168.1.1')",
        "!cidr('192.168.0.0/24').containsIP('::1')",
        "cidr('192.168.0.0/16').containsCIDR('192.168.10.0/24')",
        "!cidr('192.168.1.0/24').containsCIDR(cidr('192.168.0.0/16'))",
        "cidr('192.168.0.1/24').ip() == ip('192.168.0.1') && cidr('::1/128').prefixLength() == 128",
        "cidr('192.168.0.1/24') != cidr('192.168.0.0/24') && cidr('192.168.0.1/24').masked() == cidr('192.168.0.0/24')",
        "string(cidr('10.0.0.0/8')) == '10.0.0.0/8'",
    ],
)
def test_addresses(expression: str) -> None:
    assert holds(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "isURL('https://user:pass@example.com:80/path?query=val#fragment') && isURL('/absolute-path')",
        "!isURL('https://a:b:c/') && !isURL('../relative-path') && !isURL('') && !isURL('http://a%zz/')",
        "url('/path').getScheme() == '' && url('HTTPS://example.com/').getScheme() == 'https'",
        "url('https://u:p@example.com:80/').getHost() == 'example.com:80'",
        "url('https://[::1]:80/').getHost() == '[::1]:80'",
        "url('https://[::1]:80/').getHostname() == '::1' && url('/path').getHostname() == ''",
        "url('https://example.com:80/').getPort() == '80' && url('https://example.com/').getPort() == ''",
        "url('https://example.com/path with spaces/').getEscapedPath() == '/path%20with%20spaces/'",
        "url('https://example.com').getEscapedPath() == ''",
        "url('https://example.com/a%20b').getEscapedPath() == '/a%20b'",
        "url('https://example.com/path?k1=a&k2=b&k2=c').getQuery() == {'k1': ['a'], 'k2': ['b', 'c']}",
        "url('https://example.com/path?key with spaces=a+b%21').getQuery() == {'key with spaces': ['a b!']}",
        "url('https://example.com/path?').getQuery() == {} && url('mailto:a@b').getScheme() == 'mailto'",
    ],
)
def test_urls(expression: str) -> None:
    assert holds(expression)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("dns1123Label", "my-label-1", "My-label"),
        ("dns1123Subdomain", "apps.k8s.io", "apps..io"),
        ("dns1035Label", "a1", "1a"),
        ("qualifiedName", "example.com/My_name", "Example.com/name/"),
        ("dns1123LabelPrefix", "my-prefix-", "-a"),
        ("dns1123SubdomainPrefix", "my.prefix.x-", "a_b"),
        ("dns1035LabelPrefix", "a-", "1-"),
        ("labelValue", "", "a b"),
        ("uri", "http://example.com", "example"),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
        ("byte", "aGVsbG8=", "aGVsbG8"),
        ("date", "2021-02-28", "2021-02-29"),
        ("datetime", "2021-01-01T00:00:00Z", "2021-01-01"),
    ],
)
def test_formats(name: str, good: str, bad: str) -> None:
    assert holds(f"!format.{name}().validate('{good}').hasValue()")
    assert holds(f"format.{name}().validate('{bad}').value().size() > 0")
    assert holds(f"format.named('{name}').value() == format.{name}()")


def test_a_name_that_is_no_format_gives_none_and_a_long_label_is_one_problem() -> None:
    assert holds("!format.named('nope').hasValue()")
    assert holds(f"format.dns1123Label().validate('{'a' * 64}').value() == ['is longer than 63 bytes']")
