using System.Buffers.Binary;
using Wayleave.Core.Topology;

namespace Wayleave.Linux.Pci;

/// <summary>
/// The configuration space of a function, as far as this user may read it (include/uapi/linux/pci_regs.h).
/// </summary>
internal readonly struct PciConfigSpace
{
    private const int Status = 0x06;
    private const int StatusCapabilities = 0x10;
    private const int HeaderType = 0x0e;
    private const int HeaderTypeBridge = 1;
    private const int CapabilityPointer = 0x34;
    private const int CapabilityExpress = 0x10;
    private const int ExpressFlags = 2;
    private const int ExtendedStart = 0x100;
    private const int ExtendedAcs = 0x000d;
    private const int AcsControlOffset = 6;
    private const int HeaderBytes = 64;

    private readonly byte[] _bytes;
    private readonly long _sizeBytes;

    /// <param name="bytes">What could be read.</param>
    /// <param name="sizeBytes">How much the function has: 256, or 4096 with the extended part.</param>
    public PciConfigSpace(byte[] bytes, long sizeBytes) => (_bytes, _sizeBytes) = (bytes, sizeBytes);

    /// <summary>
    /// Whether every capability could be looked at. Without root the kernel shows the first 64 bytes only.
    /// </summary>
    public bool IsExtendedKnown => _sizeBytes == ExtendedStart || _bytes.Length > ExtendedStart;

    /// <summary>Whether the header is that of a bridge; null when not even that could be read.</summary>
    public bool? IsBridge => _bytes.Length > HeaderType ? (_bytes[HeaderType] & 0x7f) == HeaderTypeBridge : null;

    /// <summary>
    /// What the PCI Express capability says about a bridge; null without one, or if it is out of reach.
    /// </summary>
    public PciBridgeKind? BridgeKind
    {
        get
        {
            if (!TryFindCapability(CapabilityExpress, out int offset) || offset + ExpressFlags + 1 >= _bytes.Length)
            {
                return IsExtendedKnown && IsBridge == true ? PciBridgeKind.Conventional : null;
            }

            // PCI_EXP_FLAGS_TYPE
            return ((_bytes[offset + ExpressFlags] >> 4) & 0xf) switch
            {
                4 => PciBridgeKind.RootPort,
                5 => PciBridgeKind.SwitchUpstream,
                6 => PciBridgeKind.SwitchDownstream,
                _ => PciBridgeKind.Conventional,
            };
        }
    }

    /// <summary>The ACS control register; null for no such capability, or if it is out of reach.</summary>
    public AcsControl? Acs
    {
        get
        {
            // A list in 3840 bytes has at most 960 members; a broken device may have made it a ring.
            int offset = ExtendedStart;
            for (int left = 960; left > 0 && offset >= ExtendedStart && offset + 8 <= _bytes.Length; left--)
            {
                uint header = BinaryPrimitives.ReadUInt32LittleEndian(_bytes.AsSpan(offset));
                if ((header & 0xffff) == ExtendedAcs)
                {
                    ReadOnlySpan<byte> control = _bytes.AsSpan(offset + AcsControlOffset);
                    return (AcsControl)BinaryPrimitives.ReadUInt16LittleEndian(control);
                }

                offset = (int)(header >> 20) & ~3;
            }

            return null;
        }
    }

    private bool TryFindCapability(int id, out int offset)
    {
        offset = 0;
        if (_bytes.Length < HeaderBytes || (_bytes[Status] & StatusCapabilities) == 0)
        {
            return false;
        }

        offset = _bytes[CapabilityPointer] & ~3;
        for (int left = 48; left > 0 && offset >= HeaderBytes && offset + 1 < _bytes.Length; left--)
        {
            if (_bytes[offset] == id)
            {
                return true;
            }

            offset = _bytes[offset + 1] & ~3;
        }

        return false;
    }
}
