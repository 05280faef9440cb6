using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Host.Objects;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Broker;

/// <summary>A sync file that programs have, by one descriptor and its copies. Changed under the host lock.</summary>
/// <param name="File">The snapshot.</param>
internal sealed record BrokerSync(SyncFile File);

// A descriptor polls as readable once the fence has signalled, in every process, because the host then sends a word and
// shuts its side of the pair; and also when the host is dead, because the kernel then closes it. So a wait needs no
// thread of the host, and no wait is longer than the host's life.

/// <summary>
/// Fences that cross processes as descriptors (<c>sync_file</c>). Members take the host lock themselves and are called
/// without it.
/// </summary>
internal sealed class BrokerSyncs(HostContext context, BrokerHandles handles)
{
    /// <summary>
    /// Off, the descriptor of a fence that signals later says nothing: for the test that must notice.
    /// </summary>
    internal bool Signals { get; set; } = true;

    /// <summary>A descriptor of a sync file, for a program; the caller sends its end and closes it.</summary>
    /// <param name="program">On whose account it is.</param>
    /// <param name="file">Any fence, a container too.</param>
    /// <param name="operation">For a refusal.</param>
    /// <exception cref="WayleaveException">EDQUOT.</exception>
    public FileDescriptor Give(BrokerProgram program, SyncFile file, string operation)
    {
        HandlePair pair = HandlePair.CreateSignal();
        try
        {
            using (context.Enter())
            {
                Action<Fence> signal = fence => pair.TrySignal(fence.Error, fence.Timestamp ?? TimeSpan.Zero);
                handles.AddLocked(
                    new BrokerDescriptor(pair, new BrokerSync(file), program)
                    {
                        GoneLocked = _ => file.Fence.TryRemoveCallback(signal),
                    },
                    operation);
                if (Signals && file.Fence.TryAddCallback(signal) != Errno.Success)
                {
                    context.Defer(() => signal(file.Fence));
                }
            }
        }
        catch
        {
            pair.Dispose();
            throw;
        }

        return pair.Given;
    }

    /// <summary>A descriptor of a fence, as the other of a sync file.</summary>
    /// <exception cref="WayleaveException">EDQUOT.</exception>
    public FileDescriptor Give(BrokerProgram program, Fence fence, string operation)
    {
        SyncFile file;
        using (context.Enter())
        {
            file = new SyncFile(context, fence);
        }

        return Give(program, file, operation);
    }

    /// <summary>What a descriptor stands for; null when it is no fence of this host.</summary>
    public SyncFile? Find(FileDescriptor descriptor) => handles.Find<BrokerSync>(descriptor)?.File;

    /// <summary>What some work is to wait for.</summary>
    /// <exception cref="WayleaveException">EINVAL: a descriptor is no fence of this host.</exception>
    public IReadOnlyList<Fence> FindAll(IReadOnlyList<FileDescriptor> descriptors, string operation)
    {
        Fence[] fences = new Fence[descriptors.Count];
        for (int i = 0; i < fences.Length; i++)
        {
            fences[i] = Find(descriptors[i])?.Fence
                ?? throw new WayleaveException(
                    Errno.EINVAL, operation, $"descriptor {i + 1} of it stands for no fence of this host");
        }

        return fences;
    }

    /// <summary>
    /// A descriptor that signals when both have (<c>SYNC_IOC_MERGE</c>).
    /// </summary>
    /// <exception cref="WayleaveException">EBADF: the first is no fence. ENOENT: the other is none. EDQUOT.</exception>
    public FileDescriptor Merge(BrokerProgram program, FileDescriptor one, FileDescriptor other, string name)
    {
        const string Operation = "merge fences";
        SyncFile first = Find(one)
            ?? throw new WayleaveException(Errno.EBADF, Operation, "the first stands for no fence of this host");
        SyncFile? merged;
        SyncFile? second = Find(other);
        using (context.Enter())
        {
            Errno errno = first.TryMerge(second, name, flags: 0, out merged);
            if (errno != Errno.Success)
            {
                throw new WayleaveException(errno, Operation, "the second stands for no fence of this host");
            }
        }

        return Give(program, merged!, Operation);
    }

    /// <summary>
    /// What an access to a buffer has to wait for, as it is now (<c>DMA_BUF_IOCTL_EXPORT_SYNC_FILE</c>).
    /// </summary>
    /// <exception cref="WayleaveException">EINVAL: neither read nor write. EDQUOT.</exception>
    public FileDescriptor ExportFrom(BrokerProgram program, BrokerBuffer buffer, BufferSync flags)
    {
        string operation = $"export the fences of {buffer.Shared.Name}";
        SyncFile? file;
        using (context.Enter())
        {
            Errno errno = new BufferFile(buffer.Shared).TryExportSyncFile(flags, out file);
            if (errno != Errno.Success)
            {
                throw new WayleaveException(errno, operation, "say whether it is to be read, written, or both");
            }
        }

        return Give(program, file!, operation);
    }

    /// <summary>
    /// Lets others who use a buffer wait for a fence without being told (<c>DMA_BUF_IOCTL_IMPORT_SYNC_FILE</c>).
    /// </summary>
    /// <exception cref="WayleaveException">EINVAL: flags, no fence, or one that a program signals. ENODEV.</exception>
    public async Task ImportIntoAsync(BrokerBuffer buffer, BufferSync flags, FileDescriptor descriptor)
    {
        string operation = $"import a fence into {buffer.Shared.Name}";
        SyncFile? file = Find(descriptor);
        AcquireTicket ticket;
        using (context.Enter())
        {
            if (file?.Fence.IsUserControlled == true)
            {
                throw new WayleaveException(
                    Errno.EINVAL,
                    operation,
                    "a program signals it, perhaps never: nobody may have to wait for it unasked");
            }

            ticket = new AcquireTicket(context, operation);
        }

        await buffer.Shared.Reservation.LockAsync(context, ticket).ConfigureAwait(false);
        using (context.Enter())
        {
            Errno errno = new BufferFile(buffer.Shared).TryImportSyncFileLocked(ticket, flags, file);
            buffer.Shared.Reservation.Unlock(ticket);
            if (errno != Errno.Success)
            {
                throw new WayleaveException(errno, operation, errno switch
                {
                    Errno.ENODEV => "it was taken back",
                    _ => file is null ? "the descriptor stands for no fence of this host" : ErrnoMap.Describe(errno),
                });
            }
        }
    }
}
