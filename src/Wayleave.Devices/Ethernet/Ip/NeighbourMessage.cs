using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;

namespace Wayleave.Devices.Ethernet.Ip;

/// <summary>
/// A neighbour solicitation or advertisement (RFC 4861 4.3, 4.4) with its link-layer address, if any.
/// </summary>
public readonly record struct NeighbourMessage
{
    /// <summary>ICMPv6 type of a question.</summary>
    public const byte Solicitation = 135;

    /// <summary>ICMPv6 type of an answer.</summary>
    public const byte Advertisement = 136;

    /// <summary>Bytes with one option: what is sent.</summary>
    public const int Size = HeaderSize + OptionSize;

    private const int HeaderSize = 24;
    private const int OptionSize = 8;
    private const byte SourceOption = 1;
    private const byte TargetOption = 2;

    public bool IsSolicitation { get; init; }

    /// <summary>An answer to a question of the receiver.</summary>
    public bool IsSolicited { get; init; }

    /// <summary>What is known already gives way.</summary>
    public bool IsOverride { get; init; }

    /// <summary>The sender forwards packets; neither sent nor used.</summary>
    public bool IsRouter { get; init; }

    /// <summary>Whose link-layer address is asked for or told.</summary>
    public IpAddress Target { get; init; }

    /// <summary>Of the sender of a question, of the target of an answer; null without the option.</summary>
    public MacAddress? LinkAddress { get; init; }

    /// <summary>
    /// Reads an ICMPv6 message whose checksum is right; false for another type, a code, a group as target, or an option
    /// of length 0 or beyond the end.
    /// </summary>
    public static bool TryParse(ReadOnlySpan<byte> message, out NeighbourMessage parsed)
    {
        parsed = default;
        if (message.Length < HeaderSize || message[0] is not (Solicitation or Advertisement) || message[1] != 0)
        {
            return false;
        }

        bool isSolicitation = message[0] == Solicitation;
        parsed = new NeighbourMessage
        {
            IsSolicitation = isSolicitation,
            IsRouter = !isSolicitation && (message[4] & 0x80) != 0,
            IsSolicited = !isSolicitation && (message[4] & 0x40) != 0,
            IsOverride = !isSolicitation && (message[4] & 0x20) != 0,
            Target = IpAddress.ReadIPv6(message[8..]),
        };
        if (parsed.Target.IsMulticast)
        {
            return false;
        }

        byte wanted = isSolicitation ? SourceOption : TargetOption;
        for (ReadOnlySpan<byte> options = message[HeaderSize..]; !options.IsEmpty;)
        {
            if (options.Length < OptionSize || options[1] == 0 || options[1] * OptionSize > options.Length)
            {
                return false;
            }

            if (options[0] == wanted && options[1] == 1)
            {
                parsed = parsed with { LinkAddress = MacAddress.FromBytes(options[2..]) };
            }

            options = options[(options[1] * OptionSize)..];
        }

        return parsed.LinkAddress is not { IsMulticast: true };
    }

    /// <summary>Writes <see cref="Size"/> bytes with the checksum left zero.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The destination is shorter.</exception>
    public void WriteTo(Span<byte> destination)
    {
        destination[..Size].Clear();
        destination[0] = IsSolicitation ? Solicitation : Advertisement;
        destination[4] = (byte)((IsRouter ? 0x80 : 0) | (IsSolicited ? 0x40 : 0) | (IsOverride ? 0x20 : 0));
        Target.WriteTo(destination[8..]);
        destination[HeaderSize] = IsSolicitation ? SourceOption : TargetOption;
        destination[HeaderSize + 1] = 1;
        LinkAddress!.Value.WriteTo(destination[(HeaderSize + 2)..]);
    }
}
