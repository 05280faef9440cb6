using System.Buffers.Binary;
using System.Globalization;

namespace Wayleave.Linux.Sharing;

/// <summary>Who has a UDP address, as <c>/proc</c> shows it to this user: what <c>ss -ulnp</c> does.</summary>
public static class UdpOwners
{
    private static readonly string[] s_tables = ["/proc/net/udp", "/proc/net/udp6"];

    /// <summary>
    /// Who is in the way of a bind to an address: whoever has it, or the wildcard of its port.
    /// </summary>
    /// <param name="address">With its port.</param>
    /// <returns>For people; null when nobody has it (any more). One of another user is named by that user.</returns>
    public static string? Describe(in EndpointAddress address)
    {
        string[] wanted =
        [
            Key(address),
            Key(address with { High = 0, Low = address.IsIPv4 ? 0xFFFF_0000_0000UL : 0UL }),
            Key(new EndpointAddress(0, 0, address.Port)),
        ];
        foreach (string table in s_tables.Where(File.Exists))
        {
            foreach (string line in File.ReadLines(table))
            {
                string[] columns = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
                if (columns.Length > 9 && wanted.Contains(columns[1])
                    && ulong.TryParse(columns[9], CultureInfo.InvariantCulture, out ulong inode))
                {
                    int[] owners = [.. DescriptorOwners.OfSockets(new HashSet<ulong> { inode })[inode].Distinct()];
                    return owners.Length == 0
                        ? $"a program of user {columns[7]} has it"
                        : $"{string.Join(" and ", owners.Select(Name))} has it";
                }
            }
        }

        return null;
    }

    private static string Name(int process)
    {
        string name;
        try
        {
            name = File.ReadAllText($"/proc/{process}/comm").TrimEnd();
        }
        catch (IOException)
        {
            name = "a program that has just ended";
        }

        return string.Create(CultureInfo.InvariantCulture, $"{name} (process {process})");
    }

    // As the kernel prints it: 32-bit words of the address in the byte order of the machine, colon, port.
    private static string Key(in EndpointAddress address)
    {
        string port = address.Port.ToString("X4", CultureInfo.InvariantCulture);
        if (address.IsIPv4)
        {
            return $"{Word((uint)address.Low)}:{port}";
        }

        (ulong high, ulong low) = (address.High, address.Low);
        return $"{Word((uint)(high >> 32))}{Word((uint)high)}{Word((uint)(low >> 32))}{Word((uint)low)}:{port}";
    }

    private static string Word(uint value) => (BitConverter.IsLittleEndian
        ? BinaryPrimitives.ReverseEndianness(value) : value).ToString("X8", CultureInfo.InvariantCulture);
}
