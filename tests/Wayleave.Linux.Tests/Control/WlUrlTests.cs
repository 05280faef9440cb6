using Wayleave.Core;
using Wayleave.Host;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

public class WlUrlTests
{
    [Theory]
    [InlineData(
        "wl://127.0.0.2/gpu0/model.bin", "127.0.0.2", 7471, "gpu0", "model.bin", "wl://127.0.0.2/gpu0/model.bin")]
    [InlineData("wl://127.0.0.2:7471/gpu0/a", "127.0.0.2", 7471, "gpu0", "a", "wl://127.0.0.2/gpu0/a")]
    [InlineData("wl://host-b.example:9/gpu0/a+b_c-d.e", "host-b.example", 9, "gpu0", "a+b_c-d.e",
        "wl://host-b.example:9/gpu0/a+b_c-d.e")]
    [InlineData("wl://[::1]/gpu0/a", "::1", 7471, "gpu0", "a", "wl://[::1]/gpu0/a")]
    [InlineData("wl://[0:0::1]:80/gpu0/a", "::1", 80, "gpu0", "a", "wl://[::1]:80/gpu0/a")]
    [InlineData("wl://localhost", "localhost", 7471, null, null, "wl://localhost")]
    [InlineData("wl://localhost/", "localhost", 7471, null, null, "wl://localhost")]
    [InlineData("wl://localhost/gpu0", "localhost", 7471, "gpu0", null, "wl://localhost/gpu0")]
    [InlineData("wl://localhost/gpu0/", "localhost", 7471, "gpu0", null, "wl://localhost/gpu0")]
    public void A_url_is_read_and_written(
        string text, string host, int port, string? device, string? name, string canonical)
    {
        WlUrl url = WlUrl.Parse(text);
        Assert.Equal((host, port, device, name), (url.Host, url.Port, url.Device, url.Name));
        Assert.Equal(canonical, url.ToString());
        Assert.Equal(url, WlUrl.Parse(canonical));
    }

    [Theory]
    [InlineData("", "does not start with wl://")]
    [InlineData("wl:/127.0.0.2/gpu0/a", "does not start with wl://")]
    [InlineData("WL://127.0.0.2/gpu0/a", "does not start with wl://")]
    [InlineData("http://127.0.0.2/gpu0/a", "does not start with wl://")]
    [InlineData("wl://", "names no host")]
    [InlineData("wl:///gpu0/a", "names no host")]
    [InlineData("wl://:7471/gpu0/a", "names no host before the port")]
    [InlineData("wl://me@127.0.0.2/gpu0/a", "has a user name")]
    [InlineData("wl://127.0.0.256/gpu0/a", "'127.0.0.256' is not an IPv4 address")]
    [InlineData("wl://127.1/gpu0/a", "'127.1' is not an IPv4 address")]
    [InlineData("wl://0177.0.0.1/gpu0/a", "'0177.0.0.1' is not an IPv4 address")]
    [InlineData("wl://::1/gpu0/a", "IPv6 address without brackets")]
    [InlineData("wl://[::1/gpu0/a", "'[' without ']'")]
    [InlineData("wl://[127.0.0.1]/gpu0/a", "'127.0.0.1' is not an IPv6 address")]
    [InlineData("wl://[fe80::1%eth0]/gpu0/a", "'fe80::1%eth0' is not an IPv6 address")]
    [InlineData("wl://[::1]x/gpu0/a", "has 'x' after the address")]
    [InlineData("wl://h:/gpu0/a", "'' is not a port")]
    [InlineData("wl://h:0/gpu0/a", "'0' is not a port")]
    [InlineData("wl://h:65536/gpu0/a", "'65536' is not a port")]
    [InlineData("wl://h:+1/gpu0/a", "'+1' is not a port")]
    [InlineData("wl://ho st/gpu0/a", "host name contains ' '")]
    [InlineData("wl://h\u00e4/gpu0/a", "host name contains U+00E4")]
    [InlineData("wl://h//a", "the device name is empty")]
    [InlineData("wl://h/gpu0/a/b", "more than DEVICE/NAME")]
    [InlineData("wl://h/gpu0/a/", "ends with '/'")]
    [InlineData("wl://h/gpu0/../etc", "more than DEVICE/NAME")]
    [InlineData("wl://h/gpu0/..", "the object name starts with '.'")]
    [InlineData("wl://h/gpu0/-rf", "the object name starts with '-'")]
    [InlineData("wl://h/gpu0/a?b", "the object name contains '?'")]
    [InlineData("wl://h/gpu0/a%20b", "the object name contains '%'")]
    [InlineData("wl://h/gpu0/a\nb", "the object name contains U+000A")]
    [InlineData("wl://h/gp u/a", "the device name contains ' '")]
    public void A_malformed_url_is_refused_with_the_reason(string text, string reason)
    {
        Assert.False(WlUrl.TryParse(text, out WlUrl? url, out string problem));
        Assert.Null(url);
        Assert.Contains(reason, problem, StringComparison.Ordinal);
        WayleaveException e = Assert.Throws<WayleaveException>(() => WlUrl.Parse(text));
        Assert.Equal(Errno.EINVAL, e.Errno);
    }

    [Theory]
    [InlineData("wl://h", "names no device and no object")]
    [InlineData("wl://h/gpu0/", "names no object")]
    public void An_object_needs_a_device_and_a_name(string text, string reason)
    {
        Assert.False(WlUrl.TryParseObject(text, out _, out string problem));
        Assert.Contains(reason, problem, StringComparison.Ordinal);
    }

    [Fact]
    public void A_name_may_have_128_characters_and_no_more()
    {
        string longest = new('a', WlUrl.NameLengthMax);
        Assert.Equal(longest, WlUrl.ParseObject("wl://h/gpu0/" + longest).Name);
        Assert.False(WlUrl.TryParse("wl://h/gpu0/a" + longest, out _, out string problem));
        Assert.Contains("at most 128", problem, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("0", 0)]
    [InlineData("4096", 4096)]
    [InlineData("64K", 65536)]
    [InlineData("64k", 65536)]
    [InlineData("64KiB", 65536)]
    [InlineData("64kB", 64000)]
    [InlineData("1.5G", 1610612736)]
    [InlineData("1T", 1L << 40)]
    [InlineData("7B", 7)]
    [InlineData("9223372036854775807", long.MaxValue)]
    public void A_size_is_read_as_coreutils_read_it(string text, long bytes)
    {
        Assert.True(ByteSize.TryParse(text, out long parsed));
        Assert.Equal(bytes, parsed);
        Assert.True(ByteSize.TryParse(ByteSize.ToText(bytes), out parsed));
        Assert.Equal(bytes, parsed);
    }

    [Theory]
    [InlineData("")]
    [InlineData("-1")]
    [InlineData("+1")]
    [InlineData("1 G")]
    [InlineData("1X")]
    [InlineData("1GiBB")]
    [InlineData("G")]
    [InlineData("1.0001K")]
    [InlineData("0x10")]
    [InlineData("8388608T")]
    [InlineData("99999999999999999999999999999999")]
    public void A_malformed_size_is_refused(string text) => Assert.False(ByteSize.TryParse(text, out _));

    [Theory]
    [InlineData(0, "0 B")]
    [InlineData(999, "999 B")]
    [InlineData(1000, "0.98 KiB")]
    [InlineData(1536, "1.50 KiB")]
    [InlineData(67108864, "64.0 MiB")]
    [InlineData(268435456, "256 MiB")]
    public void A_size_is_shown_with_three_digits(double bytes, string text) =>
        Assert.Equal(text, ByteSize.Format(bytes));
}
