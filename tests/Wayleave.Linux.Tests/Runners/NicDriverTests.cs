using System.Net;
using System.Net.Sockets;
using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;
using Wayleave.Host.Runners;
using Wayleave.Linux.Tests.Linux;
using Xunit;

namespace Wayleave.Linux.Tests.Runners;

/// <summary>A NIC on a TAP whose protocols send every datagram back.</summary>
public sealed class NicDriverTests
{
    private static readonly MacAddress s_ours = new(0x02_57_4C_00_00_01);

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Datagrams_come_back_whether_an_engine_drives_or_the_application(bool hasEngine) =>
        Run(hasEngine, (driver, nic, socket) =>
        {
            byte[] sent = new byte[1200], received = new byte[2000];
            for (int i = 0; i < 200; i++)
            {
                sent[0] = (byte)i;
                socket.SendTo(sent, new IPEndPoint(IPAddress.Parse("10.0.0.1"), 9));
                while (!hasEngine && socket.Available == 0)
                {
                    driver.TryProgress();
                }

                Assert.Equal(sent.Length, socket.Receive(received));
                Assert.Equal((byte)i, received[0]);
            }

            Assert.Null(driver.Failure);
            Assert.InRange(driver.WithToken(() => nic.Port.Stats.FramesSent), 200, long.MaxValue);
            Assert.InRange(driver.WithToken(() => nic.Port.Queues.Sum(q => q.Stats.Frames)), 200, long.MaxValue);
        });

    [Fact]
    public void An_interface_that_was_down_goes_on_and_one_that_was_deleted_is_an_error() =>
        Run(hasEngine: true, (driver, _, socket) =>
        {
            string name = driver.LinkName;
            Assert.Null(NetworkNamespace.Ip($"link set {name} down"));
            Assert.Null(NetworkNamespace.Ip($"link set {name} up"));
            Assert.Null(NetworkNamespace.Ip($"neigh replace 10.0.0.1 lladdr {s_ours} dev {name}"));
            byte[] received = new byte[2000];
            socket.SendTo(new byte[10], new IPEndPoint(IPAddress.Parse("10.0.0.1"), 9));
            Assert.Equal(10, socket.Receive(received));

            Assert.Null(NetworkNamespace.Ip($"link del {name}"));
            Assert.True(SpinWait.SpinUntil(() => driver.LinkError != Errno.Success, Patience.Max));
            Assert.Equal(Errno.EBADFD, driver.LinkError);
            Assert.Null(driver.Failure);
        });

    private static void Run(bool hasEngine, Action<NicDriver, NicDevice, Socket> body) =>
        NetworkNamespace.Run(["link set lo up"], () =>
        {
            Assert.SkipUnless(Support.Tap.IsAvailable, Support.Tap.Detail);
            TapDevice tap = TapDevice.Open("wl%d");
            string[] setUp =
            [
                $"addr add 10.0.0.2/24 dev {tap.Name}",
                $"link set {tap.Name} up",
                $"neigh add 10.0.0.1 lladdr {s_ours} dev {tap.Name}",
            ];
            Assert.All(setUp, command => Assert.Null(NetworkNamespace.Ip(command)));
            HostContext host = new(TimeProvider.System);
            NicDevice nic = new(
                host, new PciFabric(), new PciFunction("0000:05:00.0", "nic0"), new NicOptions { Address = s_ours });
            using NicDriver driver = new(
                nic.Port, new Echo(), new TapLink(tap), host, new NicDriverOptions { HasEngine = hasEngine });
            using Socket socket = new(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
            socket.Bind(new IPEndPoint(IPAddress.Parse("10.0.0.2"), 7000));
            socket.ReceiveTimeout = Patience.TestMs;
            body(driver, nic, socket);
        });

    private sealed class Echo : INicHost
    {
        private readonly Queue<byte[]> _answers = [];

        public TimeSpan? NextDeadline => null;

        public void HandleFrame(ReceivedFrame frame, TimeSpan now)
        {
            ref readonly FrameLayout layout = ref frame.Layout;
            if (layout.EtherType != EtherType.IPv4 || layout.Protocol != IpProtocol.Udp)
            {
                return;
            }

            // Both addresses and both ports change places, which leaves every checksum as it is.
            byte[] answer = frame.Bytes[..layout.EndOffset].ToArray();
            new EthernetHeader(layout.SourceMac, s_ours, EtherType.IPv4).WriteTo(answer);
            layout.Destination.WriteTo(answer.AsSpan(layout.NetworkOffset + 12));
            layout.Source.WriteTo(answer.AsSpan(layout.NetworkOffset + 16));
            Span<byte> ports = answer.AsSpan(layout.TransportOffset, 4);
            (ports[0], ports[1], ports[2], ports[3]) = (ports[2], ports[3], ports[0], ports[1]);
            _answers.Enqueue(answer);
        }

        public void HandleTimeout(TimeSpan now)
        {
        }

        public void HandleRoomChanged(TimeSpan now)
        {
        }

        public void HandleRevoked(MemoryBinding binding, TimeSpan now)
        {
        }

        public bool PollTransmit(TimeSpan now, ref SuperFrame frame)
        {
            if (!_answers.TryDequeue(out byte[]? answer))
            {
                return false;
            }

            frame.Append(answer);
            frame.SetPartialChecksum(EthernetHeader.Size + Ipv4Header.Size, 6);
            return true;
        }
    }
}
