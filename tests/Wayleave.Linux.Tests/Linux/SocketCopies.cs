using System.Buffers.Binary;
using System.Globalization;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using Xunit;

namespace Wayleave.Linux.Tests.Linux;

/// <summary>Copies of sockets of this process, as a forked child has; found as the kernel lists them.</summary>
internal static partial class SocketCopies
{
    /// <summary>The copy of the one UDP socket of this process that is bound so, here; the caller's.</summary>
    public static Socket Of(in EndpointAddress bound)
    {
        string row = $" {Name(bound)}:{bound.Port:X4} ";
        string[] sockets =
        [
            .. File.ReadAllLines($"/proc/thread-self/net/{(bound.IsIPv4 ? "udp" : "udp6")}")
                .Where(l => l.Contains(row, StringComparison.Ordinal))
                .Select(l => $"socket:[{l.Split(' ', StringSplitOptions.RemoveEmptyEntries)[9]}]"),
        ];
        string own = Assert.Single(
            Directory.GetFiles("/proc/self/fd"), f => sockets.Contains(new FileInfo(f).LinkTarget));
        int copy = Dup(int.Parse(Path.GetFileName(own), CultureInfo.InvariantCulture));
        Assert.True(copy >= 0);
        return new Socket(new SafeSocketHandle(copy, ownsHandle: true));
    }

    /// <summary>The numbers of the interfaces where anybody here is in the group.</summary>
    public static int[] InterfacesIn(in EndpointAddress group)
    {
        string name = group.IsIPv4 ? Name(group) : $"{group.High:x16}{group.Low:x16}";
        List<int> found = [];
        int index = 0;
        foreach (string line in File.ReadAllLines($"/proc/thread-self/net/{(group.IsIPv4 ? "igmp" : "igmp6")}"))
        {
            if (char.IsAsciiDigit(line[0]))
            {
                index = int.Parse(line.Split([' ', '\t'])[0], CultureInfo.InvariantCulture);
            }

            if (line.Contains(name, StringComparison.Ordinal))
            {
                found.Add(index);
            }
        }

        return [.. found];
    }

    private static string Name(in EndpointAddress address)
    {
        Span<byte> bytes = stackalloc byte[16];
        BinaryPrimitives.WriteUInt64BigEndian(bytes, address.High);
        BinaryPrimitives.WriteUInt64BigEndian(bytes[8..], address.Low);
        string name = "";
        for (int i = address.IsIPv4 ? 12 : 0; i < bytes.Length; i += sizeof(uint))
        {
            name += BinaryPrimitives.ReadUInt32LittleEndian(bytes[i..]).ToString("X8", CultureInfo.InvariantCulture);
        }

        return name;
    }

    [LibraryImport("libc", EntryPoint = "dup")]
    private static partial int Dup(int descriptor);
}
