using Wayleave.Core.Topology;

namespace Wayleave.Core.PeerMemory;

/// <summary>
/// What a user said about peer memory: no, yes, or that device's (<c>pci_p2pdma_enable_store</c>, which NVMe targets
/// use).
/// </summary>
/// <param name="IsEnabled">Whether to use peer memory at all.</param>
/// <param name="Device">Whose; null for whichever is nearest.</param>
public readonly record struct PeerMemoryChoice(bool IsEnabled, PeerDevice? Device)
{
    /// <summary>
    /// Reads the address of a PCI function as sysfs has it, or a word that <c>kstrtobool</c> takes. One trailing line
    /// feed is allowed.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.ENODEV"/> for a device whose memory is not published, and for everything else: an address that
    /// is not there would begin with the 0 of a boolean, so 0 and 1 have to stand alone.
    /// </returns>
    public static Errno TryParse(string text, PciTopology topology, out PeerMemoryChoice choice)
    {
        ArgumentNullException.ThrowIfNull(text);
        ArgumentNullException.ThrowIfNull(topology);
        choice = default;
        string line = text.EndsWith('\n') ? text[..^1] : text;
        if (PciAddress.TryParse(line, out PciAddress address) && line == address.ToString()
            && topology.Find(line) is PciFunction function)
        {
            if (function.PeerDevice is not { Pool.IsPublished: true } device)
            {
                return Errno.ENODEV;
            }

            choice = new PeerMemoryChoice(IsEnabled: true, device);
            return Errno.Success;
        }

        if (line.Length != 1 && line.Length != 0 && line[0] is '0' or '1' && !char.IsControl(line[1]))
        {
            return Errno.ENODEV;
        }

        if (ReadBoolean(line) is not bool isEnabled)
        {
            return Errno.ENODEV;
        }

        choice = new PeerMemoryChoice(isEnabled, null);
        return Errno.Success;
    }

    /// <summary>As <c>pci_p2pdma_enable_show</c> prints it, without the line feed.</summary>
    public override string ToString() => !IsEnabled ? "0" : Device?.Function.Address.ToString() ?? "1";

    // kstrtobool looks at one letter, at two after an o.
    private static bool? ReadBoolean(string text) => text switch
    {
        ['y' or 'Y' or 't' or 'T' or 'e' or 'E' or '1', ..] => true,
        ['n' or 'N' or 'f' or 'F' or 'd' or 'D' or '0', ..] => false,
        ['o' or 'O', 'n' or 'N', ..] => true,
        ['o' or 'O', 'f' or 'F', ..] => false,
        _ => null,
    };
}
