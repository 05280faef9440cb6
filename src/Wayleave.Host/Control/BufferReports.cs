using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Host.Broker;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Control;

/// <summary>Buffers and who holds them, as documents. Host lock not held.</summary>
internal static class BufferReports
{
    public static BuffersDocument Describe(WayleaveHost host)
    {
        List<(BufferInfo Info, BrokerBuffer? Shared)> seen = [];
        Dictionary<ulong, BufferHoldersDocument> holders = [];
        Dictionary<ulong, ulong[]> inodes = [];
        using (host.Context.Enter())
        {
            Dictionary<ulong, BrokerBuffer> shared =
                (host.Broker?.Buffers.AllLocked ?? []).ToDictionary(b => b.Shared.Id);
            foreach (BufferInfo info in BufferInfo.Collect(host.Context))
            {
                shared.Remove(info.Id, out BrokerBuffer? buffer);
                seen.Add((info, buffer));
            }

            // Memory that was freed and waits for whoever maps it.
            seen.AddRange(shared.Values.Select(b => (BufferInfo.Of(b.Shared), (BrokerBuffer?)b)));
            foreach (BrokerBuffer buffer in seen.Select(s => s.Shared).OfType<BrokerBuffer>())
            {
                inodes[buffer.Shared.Id] = [.. buffer.Descriptors.Select(d => d.Pair.Inode)];
                holders[buffer.Shared.Id] = new BufferHoldersDocument(
                    buffer.Owner.ProcessId,
                    [.. buffer.Numbers.Select(p => p.ProcessId).Order()],
                    [],
                    [.. buffer.Mappings.Select(m => m.Program.ProcessId).Order()]);
            }
        }

        (ulong Inode, SyncFileDocument File)[] files = DescribeSyncFiles(host);
        ILookup<ulong, int> open = DescriptorOwners.OfSockets(
            inodes.Values.SelectMany(i => i).Concat(files.Select(f => f.Inode)).ToHashSet());
        return new BuffersDocument
        {
            Host = host.Config.Name,
            Buffers = [.. seen.Select(s => ToDocument(s.Info, HoldersOf(s.Info.Id)))],
            SyncFiles = [.. files.Select(f => f.File with { Processes = [.. open[f.Inode].Order()] })],
        };

        BufferHoldersDocument? HoldersOf(ulong id) =>
            holders.TryGetValue(id, out BufferHoldersDocument? found)
                ? found with { Descriptors = [.. inodes[id].SelectMany(i => open[i]).Order()] }
                : null;
    }

    private static (ulong Inode, SyncFileDocument File)[] DescribeSyncFiles(WayleaveHost host)
    {
        List<(ulong Inode, SyncFileDocument File)> files = [];
        using (host.Context.Enter())
        {
            foreach (BrokerDescriptor descriptor in host.Broker?.Handles.AllLocked ?? [])
            {
                if (descriptor.Target is BrokerSync { File: { } file })
                {
                    bool isSignaled = file.Fence.CheckSignaled();
                    files.Add((descriptor.Pair.Inode, new SyncFileDocument(
                        file.Name,
                        file.Fence.ToString(),
                        !isSignaled ? "pending" : file.Fence.IsForced ? "forced" : "signaled",
                        file.Fence.Error == Errno.Success ? null : file.Fence.Error.ToString(),
                        descriptor.Exporter.ProcessId,
                        [])));
                }
            }
        }

        return [.. files];
    }

    private static BufferDocument ToDocument(BufferInfo info, BufferHoldersDocument? holders) => new()
    {
        Id = info.Id,
        Name = info.Name,
        Exporter = info.Exporter,
        Storage = info.Storage,
        SizeBytes = info.SizeBytes,
        References = info.References,
        Revoked = info.IsRevoked,
        Users = [.. info.Users.Select(u =>
            new BufferUserDocument(u.Name, u.Device, u.Holder, u.Kind, u.State, u.PinCount))],
        Fences = info.Fences,
        Holders = holders,
    };
}
