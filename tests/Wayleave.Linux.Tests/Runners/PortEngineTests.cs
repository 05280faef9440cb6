using System.Net;
using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Linux.Tests.Control;
using Wayleave.Ports;
using Xunit;

namespace Wayleave.Linux.Tests.Runners;

/// <summary>
/// When the engine of a driver relies on an application's polls, look by look: the test is its thread, and the clock
/// moves when told.
/// </summary>
public sealed class PortEngineTests
{
    // On the real clock nobody waits so long, unless the wake that ends each absence here were lost.
    private static readonly TimeSpan s_standBack = TimeSpan.FromMilliseconds(100);

    private static readonly PortDriverOptions s_options = new()
    {
        HasEngine = false,
        EngineStandBack = s_standBack,
        EngineIdleSpin = TimeSpan.Zero,
        EngineSleepMax = TimeSpan.Zero,
    };

    [Fact]
    public void Who_wakes_an_engine_that_stands_back_finds_it_driving_although_an_application_polls() =>
        Assert.True(DrivesWhenWoken(s_options));

    [Fact]
    public void An_engine_that_stands_back_again_when_woken_is_caught() =>
        Assert.False(DrivesWhenWoken(s_options with { EngineHeedsWakes = false }));

    [Fact]
    public void An_application_that_has_stopped_polling_is_not_relied_on()
    {
        Assert.False(DrivesAfterPollThatWas(s_standBack, s_options));
        Assert.True(DrivesAfterPollThatWas(s_standBack + TimeSpan.FromTicks(1), s_options));
    }

    [Fact]
    public void An_engine_that_relies_on_old_polls_is_caught() => Assert.False(
        DrivesAfterPollThatWas(TimeSpan.FromHours(1), s_options with { EngineForgetsOldPolls = false }));

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void An_application_that_has_polled_is_relied_on_unless_it_expects_to_wait(bool waits)
    {
        using SteppedEngine engine = new(s_options);
        engine.Poll();
        if (waits)
        {
            engine.ExpectWait();
        }

        Assert.Equal(waits, engine.DrivesAtNextLook());
    }

    private static bool DrivesWhenWoken(PortDriverOptions options)
    {
        using SteppedEngine engine = new(options);
        engine.Poll();
        Assert.False(engine.DrivesAtNextLook()); // it stood back, until it was woken
        engine.Poll();
        return engine.DrivesAtNextLook();
    }

    private static bool DrivesAfterPollThatWas(TimeSpan ago, PortDriverOptions options)
    {
        using SteppedEngine engine = new(options);
        engine.Poll();
        engine.Advance(ago);
        return engine.DrivesAtNextLook();
    }

    /// <summary>A driver on a socket to which nobody sends.</summary>
    private sealed class SteppedEngine : IDisposable, IKeySource
    {
        private readonly ManualClock _clock = new();
        private readonly RdmaPort _port;
        private readonly PortDriver _driver;
        private uint _key;
        private int _turns;

        public SteppedEngine(PortDriverOptions options)
        {
            UdpEndpoint endpoint = UdpEndpoint.Bind(EndpointAddress.From(IPAddress.Loopback, 0));
            HostContext host = new(_clock);
            Gid gid = new(endpoint.LocalAddress.High, endpoint.LocalAddress.Low);
            _port = new RdmaDevice(
                host,
                new PciFabric(),
                new PciFunction("0000:01:00.0", "nic"),
                new RdmaDeviceOptions { Gid = gid, UdpPort = endpoint.LocalAddress.Port },
                this).Port;
            _driver = new PortDriver(_port, endpoint, host, options) { TurnEnded = () => _turns++ };
            Advance(TimeSpan.FromHours(1)); // nobody has polled for long
        }

        public void Advance(TimeSpan time) => _clock.Advance(time);

        public void Poll() => _driver.TryProgress();

        public void ExpectWait() => _driver.ExpectWait();

        /// <summary>
        /// Whether the engine takes a turn when it looks. If it stands back instead, a wake ends that: an owner waits.
        /// </summary>
        public bool DrivesAtNextLook()
        {
            int turns = _turns;
            _port.AttentionNeeded!();
            _driver.Engine.Step();
            return _turns > turns;
        }

        public uint NextUInt32() => ++_key;

        public void Dispose() => _driver.Dispose();
    }
}
