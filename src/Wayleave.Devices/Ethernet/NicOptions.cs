using System.Numerics;
using Wayleave.Devices.Ethernet.Steering;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;

namespace Wayleave.Devices.Ethernet;

/// <summary>How a NIC is made. Copied at construction.</summary>
public sealed record NicOptions
{
    /// <summary>The unit of binding.</summary>
    public const int PageBytes = 4096;

    /// <summary>Most pieces of one payload: 64 KiB in chunks of 4 KiB, the first and the last partly used.</summary>
    public const int FragmentsMax = (ushort.MaxValue / PageBytes) + 2;

    private const int HeaderBytesMax = EthernetHeader.Size + EthernetHeader.TagSize + Ipv6Header.Size
        + FrameParser.ExtensionBytesMax + TcpHeader.SizeMax;

    /// <summary>The address that frames are sent to; a unicast address.</summary>
    public MacAddress Address { get; init; } = new(0x02_57_4C_00_00_01);

    /// <summary>Largest IP packet that is not a super-packet.</summary>
    public int MtuBytes { get; init; } = 1500;

    /// <summary>VLANs whose tagged frames are taken; frames without a tag, and those of VLAN 0, always are.</summary>
    public IReadOnlyList<ushort> Vlans { get; init; } = [];

    /// <summary>Receive queues that there can be (<c>ethtool -l</c>, pre-set maximum).</summary>
    public int ChannelsMax { get; init; } = 16;

    /// <summary>Receive queues that there are at first.</summary>
    public int Channels { get; init; } = 4;

    /// <summary>Entries of a ring at first; a power of two.</summary>
    public int RingEntries { get; init; } = 256;

    /// <summary>Most entries of a ring; a power of two.</summary>
    public int RingEntriesMax { get; init; } = 4096;

    /// <summary>
    /// Host memory of each ring entry, for headers and for short frames that are not split.
    /// </summary>
    public int HeadBytes { get; init; } = 512;

    /// <summary>Host memory for payload of queues that are not bound.</summary>
    public int HostPoolBytes { get; init; } = 16 << 20;

    /// <summary>Host memory for payload of bound queues that cannot go where it should.</summary>
    public int FallbackPoolBytes { get; init; } = 4 << 20;

    /// <summary>Whether the device can split headers off at all.</summary>
    public bool CanSplit { get; init; } = true;

    /// <summary>Events kept until polled; that of a revoke is never lost.</summary>
    public int EventCapacity { get; init; } = 256;

    public SteeringOptions Steering { get; init; } = new();

    public NicDefences Defences { get; init; } = NicDefences.All;

    /// <summary>Chunks of host memory are so large that every frame that is not cut fits one.</summary>
    internal int HostChunkBytes => (int)BitOperations.RoundUpToPowerOf2(
        (uint)Math.Max(PageBytes, MtuBytes + EthernetHeader.Size + EthernetHeader.TagSize));

    /// <summary>Throws when the values do not work together, naming every problem at once.</summary>
    /// <exception cref="ArgumentException">One or more values are out of range.</exception>
    public void Validate()
    {
        List<string> problems = [];
        bool isUnicast = !Address.IsMulticast && Address.Value != 0;
        Check(isUnicast, $"{nameof(Address)} must be a unicast address, not {Address}");
        Range(MtuBytes, 1280, ushort.MaxValue, nameof(MtuBytes)); // RFC 8200 5
        Check(Vlans.All(v => v < 4095), $"{nameof(Vlans)} are 0 to 4094");
        Range(ChannelsMax, 1, 1024, nameof(ChannelsMax));
        Range(Channels, 1, ChannelsMax, nameof(Channels));
        Range(RingEntriesMax, 1, 1 << 15, nameof(RingEntriesMax));
        Range(RingEntries, 1, RingEntriesMax, nameof(RingEntries));
        Check(BitOperations.IsPow2(RingEntries), $"{nameof(RingEntries)} must be a power of two, not {RingEntries}");
        Range(HeadBytes, HeaderBytesMax, 1 << 16, nameof(HeadBytes));
        Range(HostPoolBytes, HostChunkBytes, int.MaxValue, nameof(HostPoolBytes));
        Range(FallbackPoolBytes, PageBytes, int.MaxValue, nameof(FallbackPoolBytes));
        Range(EventCapacity, 1, 1 << 20, nameof(EventCapacity));
        Check(
            BitOperations.IsPow2(Steering.TableEntries) && Steering.TableEntries <= 1 << 16,
            $"{nameof(Steering.TableEntries)} must be a power of two, not {Steering.TableEntries}");
        Range(Steering.Rules, 0, 1 << 20, nameof(Steering.Rules));
        if (problems.Count > 0)
        {
            throw new ArgumentException(string.Join("; ", problems));
        }

        void Range(int value, int least, int most, string name) =>
            Check(value >= least && value <= most, $"{name} must be {least} to {most}, not {value}");

        void Check(bool holds, string problem)
        {
            if (!holds)
            {
                problems.Add(problem);
            }
        }
    }
}
