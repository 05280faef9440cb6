using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Xunit;

namespace Wayleave.Tests.Buffers;

public class DmaAddressListTests
{
    private static readonly DmaAddressList s_list = new(
        [
            new(new DeviceAddress(0x1000), 0x10),
            new(new DeviceAddress(0x9000), 0x20),
            new(new DeviceAddress(0x5000), 1),
        ]);

    [Theory]
    [InlineData(0UL, 0x1000UL, 0x10UL)]
    [InlineData(0xFUL, 0x100FUL, 1UL)]
    [InlineData(0x10UL, 0x9000UL, 0x20UL)]
    [InlineData(0x2FUL, 0x901FUL, 1UL)]
    [InlineData(0x30UL, 0x5000UL, 1UL)]
    public void An_offset_is_found_with_what_follows_it_without_a_break(ulong offset, ulong address, ulong contiguous)
    {
        Assert.True(s_list.TryLocate(offset, out DeviceAddress found, out ulong bytes));
        Assert.Equal((new DeviceAddress(address), contiguous), (found, bytes));
    }

    [Theory]
    [InlineData(0x31UL)]
    [InlineData(ulong.MaxValue)]
    public void An_offset_behind_the_end_is_refused(ulong offset) =>
        Assert.False(s_list.TryLocate(offset, out _, out _));
}
