using System.Globalization;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Ports.Programs;

namespace Wayleave.Ibverbs;

// WAYLEAVE_DEVICES=wl0@127.0.7.2,wl1@::1. Each process needs an address of its own, for RoCEv2 has one port number.
// Without the variable there is one device, at an address of 127.0.0.0/8 made of the number of the process, so that two
// programs started by hand find each other by the addresses that they exchange.

/// <summary>The devices of this process.</summary>
internal static class VerbsDevices
{
    private const string Variable = ProgramVariables.Devices;
    private const int NameBytesMax = 63; // IBV_SYSFS_NAME_MAX with its zero

    /// <summary>In the order of the variable.</summary>
    public static IReadOnlyList<VerbsDevice> All { get; } = Read();

    /// <summary>Reads a list as the variable has it.</summary>
    /// <param name="text">The variable.</param>
    /// <param name="devices">Name and address of each.</param>
    /// <returns>What is wrong with it, or null.</returns>
    public static string? TryParse(string text, out List<(string Name, Gid Gid)> devices)
    {
        devices = [];
        const StringSplitOptions Loosely = StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries;
        foreach (string entry in text.Split(',', Loosely))
        {
            int at = entry.IndexOf('@', StringComparison.Ordinal);
            string name = at > 0 ? entry[..at] : string.Create(CultureInfo.InvariantCulture, $"wl{devices.Count}");
            bool isName = name.Length <= NameBytesMax && name.All(c => char.IsAsciiLetterOrDigit(c) || c is '_' or '-');
            if (!isName || devices.Any(d => d.Name == name))
            {
                return $"{name} is no name for one more device";
            }

            if (!Gid.TryParse(entry.AsSpan(at + 1), out Gid gid))
            {
                return $"{entry[(at + 1)..]} is no IP address";
            }

            devices.Add((name, gid));
        }

        return null;
    }

    private static VerbsDevice[] Read()
    {
        string? text = Environment.GetEnvironmentVariable(Variable);
        if (text is null)
        {
            uint process = (uint)Environment.ProcessId;
            return [new VerbsDevice("wl0", Gid.FromIPv4(0x7F40_0000 | (process & 0x3F_FFFF)))];
        }

        string? problem = TryParse(text, out List<(string Name, Gid Gid)> devices);
        if (problem is not null)
        {
            Console.Error.WriteLine($"{Variable}: {problem}");
            return [];
        }

        return [.. devices.Select(d => new VerbsDevice(d.Name, d.Gid))];
    }
}
