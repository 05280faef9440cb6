using Wayleave.Client;
using Wayleave.Core;
using Wayleave.Host.Broker;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>What one program may have.</summary>
public sealed class QuotaTests : BrokerTest
{
    protected override BrokerLimits Limits => new()
    {
        BytesMax = 64 << 10,
        BuffersMax = 3,
        DescriptorsMax = 1,
        MappingsMax = 1,
        ConnectionsMax = 2,
    };

    [Fact]
    public void Each_limit_is_of_the_program_over_all_of_its_connections_and_is_given_back()
    {
        using BrokerClient one = BrokerClient.Connect(Server.SocketPath, "one");
        BrokerClient other = BrokerClient.Connect(Server.SocketPath, "other");
        Assert.Equal(Errno.ECONNRESET, Refusal(() => BrokerClient.Connect(Server.SocketPath, "third")));
        ClientDevice device = one.OpenDevice("gpu0");
        using ClientBuffer first = device.Allocate("first", 32 << 10);
        Assert.Equal(Errno.EDQUOT, Refusal(() => other.OpenDevice("gpu0").Allocate("large", 36 << 10)));
        using ClientBuffer second = device.Allocate("second", 4096), third = device.Allocate("third", 4096);
        Assert.Equal(Errno.EDQUOT, Refusal(() => device.Allocate("fourth", 4096)));
        using FileDescriptor descriptor = first.Export();
        Assert.Equal(Errno.EDQUOT, Refusal(() => second.Export()));
        using ClientMapping mapping = first.Map();
        Assert.Equal(Errno.EDQUOT, Refusal(() => second.Map()));

        third.Dispose();
        device.Allocate("fourth", 4096).Dispose();
        mapping.Dispose();
        second.Map().Dispose();
    }

    private static Errno Refusal(Action action) => Assert.Throws<BrokerException>(action).Errno;

    private static Errno Refusal<T>(Func<T> action) => Refusal(() => { action(); });
}
