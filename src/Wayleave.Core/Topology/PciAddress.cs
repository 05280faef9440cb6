using System.Diagnostics.CodeAnalysis;
using System.Globalization;

namespace Wayleave.Core.Topology;

/// <summary>
/// Where a PCI function sits: domain, bus, device and function, written as <c>lspci -D</c> writes it,
/// <c>0000:01:00.0</c>. Ordered as the kernel scans.
/// </summary>
public readonly record struct PciAddress : IComparable<PciAddress>
{
    public const int DevicesPerBus = 32;
    public const int FunctionsPerDevice = 8;

    /// <exception cref="ArgumentOutOfRangeException">A device above 31 or a function above 7.</exception>
    public PciAddress(ushort domain, byte bus, byte device, byte function)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(device, DevicesPerBus);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(function, FunctionsPerDevice);
        (Domain, Bus, Device, Function) = (domain, bus, device, function);
    }

    public ushort Domain { get; }

    public byte Bus { get; }

    public byte Device { get; }

    public byte Function { get; }

    /// <summary>Device and function in one byte (<c>PCI_DEVFN</c>).</summary>
    public byte DevFn => (byte)((Device << 3) | Function);

    public static bool operator <(PciAddress left, PciAddress right) => left.CompareTo(right) < 0;

    public static bool operator >(PciAddress left, PciAddress right) => left.CompareTo(right) > 0;

    public static bool operator <=(PciAddress left, PciAddress right) => left.CompareTo(right) <= 0;

    public static bool operator >=(PciAddress left, PciAddress right) => left.CompareTo(right) >= 0;

    /// <summary>Reads <c>0000:01:00.0</c>, or <c>01:00.0</c> in domain 0.</summary>
    /// <exception cref="FormatException">It is neither.</exception>
    public static PciAddress Parse(string text) => TryParse(text, out PciAddress address)
        ? address
        : throw new FormatException($"'{text}' is not a PCI address; write one as 0000:01:00.0, all hexadecimal");

    /// <summary>Reads <c>0000:01:00.0</c>, or <c>01:00.0</c> in domain 0; hexadecimal without a prefix.</summary>
    public static bool TryParse([NotNullWhen(true)] string? text, out PciAddress address)
    {
        address = default;
        if (text is null)
        {
            return false;
        }

        ReadOnlySpan<char> rest = text;
        ushort domain = 0;
        if (rest.Length == 12)
        {
            if (rest[4] != ':' || !TryParseHex(rest[..4], out int value))
            {
                return false;
            }

            domain = (ushort)value;
            rest = rest[5..];
        }

        if (rest.Length != 7 || rest[2] != ':' || rest[5] != '.'
            || !TryParseHex(rest[..2], out int bus)
            || !TryParseHex(rest[3..5], out int device) || device >= DevicesPerBus
            || !TryParseHex(rest[6..], out int function) || function >= FunctionsPerDevice)
        {
            return false;
        }

        address = new PciAddress(domain, (byte)bus, (byte)device, (byte)function);
        return true;
    }

    public int CompareTo(PciAddress other) => Key.CompareTo(other.Key);

    public override string ToString() => $"{Domain:x4}:{Bus:x2}:{Device:x2}.{Function}";

    private uint Key => ((uint)Domain << 16) | ((uint)Bus << 8) | DevFn;

    private static bool TryParseHex(ReadOnlySpan<char> text, out int value) =>
        int.TryParse(text, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out value);
}
