using Xunit;

namespace Wayleave.Linux.Tests.Linux;

public sealed class ScatterListTests
{
    [Fact]
    public void A_piece_that_a_full_list_refuses_does_not_count()
    {
        byte[] memory = GC.AllocateArray<byte>(16, pinned: true);
        ScatterList pieces = new(2);
        pieces.Add(memory.AsSpan(0, 8));
        pieces.Add(memory.AsSpan(8, 8));
        Assert.Throws<IndexOutOfRangeException>(() => pieces.Add(memory));
        Assert.Equal(2, pieces.Count);
    }
}
