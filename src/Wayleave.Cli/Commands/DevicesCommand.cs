using System.CommandLine;
using System.Globalization;
using Wayleave.Host;
using Wayleave.Host.Control;

namespace Wayleave.Cli.Commands;

/// <summary><c>wayleave devices</c>: one block per device, as <c>ibv_devinfo</c> prints them.</summary>
internal static class DevicesCommand
{
    private const int KeyWidth = 24;

    public static Command Create()
    {
        Argument<WlUrl?> url =
            Parsing.OptionalUrl("wl://HOST, or wl://HOST/DEVICE for one of them; default: the host that runs here");
        Option<bool> verbose = new("--verbose", "-v") { Description = "Print all counters" };
        Command command = new("devices", "List the devices of a host") { url, verbose };
        command.AddClientOptions();
        command.SetAction(async (parsed, cancellation) =>
        {
            using ControlClient client = parsed.OpenClient(parsed.GetValue(url));
            DevicesDocument devices = await client.GetDevicesAsync(cancellation).ConfigureAwait(false);
            Print(new CommandContext(parsed), Select(devices, parsed.GetValue(url)), parsed.GetValue(verbose));
            return ExitCode.Done;
        });
        return command;
    }

    private static DevicesDocument Select(DevicesDocument devices, WlUrl? url)
    {
        if (url?.IsObject == true)
        {
            throw new UsageException($"{url}: names an object; wayleave ls lists objects");
        }

        if (url?.Device is not { } device)
        {
            return devices;
        }

        DevicesDocument selected = devices with
        {
            Gpus = [.. devices.Gpus.Where(g => g.Name == device)],
            Nics = [.. devices.Nics.Where(n => n.Name == device)],
            Nvmes = [.. devices.Nvmes.Where(n => n.Name == device)],
            Accelerators = [.. devices.Accelerators.Where(a => a.Name == device)],
            Vfios = [.. devices.Vfios.Where(v => v.Name == device)],
            Ethernets = [.. devices.Ethernets.Where(e => e.Name == device)],
        };
        IEnumerable<string> names = devices.Gpus.Select(g => g.Name)
            .Concat(devices.Nics.Select(n => n.Name))
            .Concat(devices.Nvmes.Select(n => n.Name))
            .Concat(devices.Accelerators.Select(a => a.Name))
            .Concat(devices.Vfios.Select(v => v.Name))
            .Concat(devices.Ethernets.Select(e => e.Name));
        return names.Contains(device)
            ? selected
            : throw new WayleaveException(
                Core.Errno.ENODEV, url.ToString(), "the host has no such device", $"it has {string.Join(", ", names)}");
    }

    private static void Print(CommandContext context, DevicesDocument devices, bool isVerbose)
    {
        if (context.IsJson)
        {
            context.WriteJson(devices, ControlJson.Default.DevicesDocument);
            return;
        }

        foreach (GpuDocument gpu in devices.Gpus)
        {
            WriteGpu(context.Out, gpu, isVerbose);
        }

        foreach (NicDocument nic in devices.Nics)
        {
            WriteNic(context.Out, nic, isVerbose);
        }

        foreach (NvmeDocument drive in devices.Nvmes)
        {
            WriteNvme(context.Out, drive, isVerbose);
        }

        foreach (AcceleratorDocument accelerator in devices.Accelerators)
        {
            WriteAccelerator(context.Out, accelerator, isVerbose);
        }

        foreach (VfioDocument vfio in devices.Vfios)
        {
            WriteVfio(context.Out, vfio, isVerbose);
        }

        foreach (EthernetDocument ethernet in devices.Ethernets)
        {
            WriteEthernet(context.Out, ethernet, isVerbose);
        }
    }

    private static void WriteGpu(TextWriter output, GpuDocument gpu, bool isVerbose)
    {
        output.WriteLine(gpu.Name);
        Write(output, "type", "gpu");
        Write(output, "pci", gpu.PciAddress);
        Write(output, "vram", ByteSize.Format(gpu.VramTotalBytes));
        Write(output, "vram_used", ByteSize.Format(gpu.VramUsedBytes));
        Write(output, "vram_quarantined", ByteSize.Format(gpu.VramQuarantinedBytes));
        if (gpu.HiddenVramTotalBytes > 0)
        {
            Write(output, "vram_hidden", ByteSize.Format(gpu.HiddenVramTotalBytes));
        }

        Write(output, "system", ByteSize.Format(gpu.SystemTotalBytes));
        Write(output, "system_used", ByteSize.Format(gpu.SystemUsedBytes));
        WriteFailure(output, gpu.Failure);
        if (isVerbose)
        {
            Write(output, "vram_free_bytes", gpu.VramFreeBytes);
            Write(output, "system_quarantined_bytes", gpu.SystemQuarantinedBytes);
            Write(output, "buffers", gpu.Buffers);
            Write(output, "evictions", gpu.Evictions);
            Write(output, "restores", gpu.Restores);
            Write(output, "moved_bytes", gpu.MovedBytes);
        }

        output.WriteLine();
    }

    private static void WriteNic(TextWriter output, NicDocument nic, bool isVerbose)
    {
        output.WriteLine(nic.Name);
        Write(output, "type", "rdma");
        Write(output, "pci", nic.PciAddress);
        Write(output, "gid", nic.Gid);
        Write(output, "udp_port", nic.UdpPort);
        Write(output, "path_mtu", nic.PathMtuBytes);
        Write(output, "revoke", GpuCommand.ToWord(nic.Revoke));
        foreach (NicPortDocument port in nic.Ports)
        {
            string on = port.Interface is { } name ? $" on {name}" : "";
            Write(output, "port", $"{port.Number}: {port.Gid} udp {port.UdpPort}{on}, {port.State}");
        }

        foreach (NicPeerDocument peer in nic.Peers)
        {
            Write(output, "peer", $"{peer.Gid} (icrc checked: {peer.Icrc})");
        }

        WriteFailure(output, nic.Failure);
        if (isVerbose)
        {
            foreach ((string name, long value) in nic.Counters)
            {
                Write(output, name, value);
            }
        }

        output.WriteLine();
    }

    private static void WriteNvme(TextWriter output, NvmeDocument drive, bool isVerbose)
    {
        output.WriteLine(drive.Name);
        Write(output, "type", "nvme");
        Write(output, "pci", drive.PciAddress);
        Write(output, "state", drive.State);
        Write(output, "memory_buffer", ByteSize.Format(drive.MemoryBufferBytes));
        WriteFailure(output, drive.Failure);
        if (isVerbose)
        {
            Write(output, "namespaces", drive.Namespaces);
            Write(output, "completed", drive.Completed);
            Write(output, "failed", drive.Failed);
            Write(output, "peer_bytes", drive.PeerBytes);
            Write(output, "host_bytes", drive.HostBytes);
        }

        output.WriteLine();
    }

    private static void WriteAccelerator(TextWriter output, AcceleratorDocument accelerator, bool isVerbose)
    {
        output.WriteLine(accelerator.Name);
        Write(output, "type", "accelerator");
        Write(output, "pci", accelerator.PciAddress);
        Write(output, "memory", ByteSize.Format(accelerator.MemoryTotalBytes));
        Write(output, "memory_visible", ByteSize.Format(accelerator.VisibleBytes));
        Write(output, "memory_used", ByteSize.Format(accelerator.MemoryUsedBytes));
        Write(output, "memory_quarantined", ByteSize.Format(accelerator.MemoryQuarantinedBytes));
        WriteFailure(output, accelerator.Failure);
        if (isVerbose)
        {
            Write(output, "memory_free_bytes", accelerator.MemoryFreeBytes);
            Write(output, "exports", accelerator.Exports);
        }

        output.WriteLine();
    }

    private static void WriteVfio(TextWriter output, VfioDocument vfio, bool isVerbose)
    {
        output.WriteLine(vfio.Name);
        Write(output, "type", "vfio");
        Write(output, "pci", vfio.PciAddress);
        Write(output, "memory_enable", vfio.MemoryEnabled ? "on" : "off");
        Write(output, "power_state", vfio.PowerState);
        if (vfio.Transition is { } transition)
        {
            Write(output, "transition", transition);
        }

        Write(output, "bars", ByteSize.Format(vfio.BarTotalBytes));
        Write(output, "bars_free", ByteSize.Format(vfio.BarFreeBytes));
        Write(output, "bars_quarantined", ByteSize.Format(vfio.BarQuarantinedBytes));
        if (isVerbose)
        {
            Write(output, "buffers", vfio.Buffers);
            Write(output, "resets", vfio.Resets);
        }

        output.WriteLine();
    }

    internal static void WriteEthernet(TextWriter output, EthernetDocument nic, bool isVerbose)
    {
        output.WriteLine(nic.Name);
        Write(output, "type", "ethernet");
        Write(output, "pci", nic.PciAddress);
        Write(output, "interface", nic.Interface);
        Write(output, "mac", nic.Mac);
        foreach (string address in nic.Addresses)
        {
            Write(output, "address", address);
        }

        Write(output, "mtu", nic.MtuBytes);
        Write(output, "queues", nic.Queues);
        Write(output, "connections", nic.Connections);
        foreach (EthernetBindingDocument binding in nic.Bindings)
        {
            string queues = string.Join(", ", binding.Queues);
            Write(
                output,
                "binding",
                $"{binding.Id}: queue {queues} -> {binding.Buffer} ({ByteSize.Format(binding.LengthBytes)}, "
                    + $"{binding.Kind}, {binding.Route}, {binding.State}, {binding.TokensOut} tokens out)");
        }

        WriteFailure(output, nic.Failure);
        if (isVerbose)
        {
            foreach ((string name, long value) in nic.Counters)
            {
                Write(output, name, value);
            }
        }

        output.WriteLine();
    }

    private static void WriteFailure(TextWriter output, string? failure)
    {
        if (failure is not null)
        {
            Write(output, "failure", failure);
        }
    }

    private static void Write<T>(TextWriter output, string key, T value)
    {
        string name = (key + ":").PadRight(KeyWidth);
        output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"        {name} {value}"));
    }
}
