using Wayleave.Host.Benchmarks;
using Xunit;

namespace Wayleave.Linux.Tests.Benchmarks;

/// <summary>What the other process of a benchmark says is looked at before it is used.</summary>
public class BenchmarkMessageTests
{
    [Theory]
    [InlineData("127.0.0.2", 0, true)]
    [InlineData("127.0.0.2", 7, true)]
    [InlineData("127.0.0.2", -1, false)]
    [InlineData("127.0.0.2", int.MinValue, false)]
    [InlineData("nobody", 7, false)]
    public void An_end_that_makes_no_sense_is_refused(string gid, int firstsAhead, bool isTaken)
    {
        PairMessage message = new(gid, 4791, 17, 0, 4096, null, firstsAhead);
        if (isTaken)
        {
            Assert.Equal(firstsAhead, message.ToEnd().FirstsAhead);
        }
        else
        {
            Assert.Throws<InvalidDataException>(message.ToEnd);
        }
    }
}
