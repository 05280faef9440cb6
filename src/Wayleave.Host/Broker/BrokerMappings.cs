using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;
using Wayleave.Host.Objects;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Broker;

// A mapping ends when no process besides this one has the pages, and who says so is the kernel: a program that has
// unmapped may have passed its descriptor on, and so may one that has died. As long as another program is on the
// account of the same pages, that account is kept open and the first may be closed.
//
//   mapped --Unmap, connection closed, process dead--> pending
//   pending --another account is open, or nobody has the pages--> ended

/// <summary>
/// Mappings that programs have of device memory. Members take the host lock themselves and hold nothing while they ask
/// the kernel; those with Locked in their name are called with it held.
/// </summary>
internal sealed class BrokerMappings(HostContext context, BrokerPrograms programs, BrokerImporters importers)
{
    /// <summary>
    /// Off, the end of a mapping is believed without the kernel's word: for the test that must notice.
    /// </summary>
    internal bool AsksKernel { get; set; } = true;

    /// <summary>
    /// Off, a withdrawal says that it has taken the pages out, and has not: for the test that must notice.
    /// </summary>
    internal bool ReplacesPages { get; set; } = true;

    /// <summary>The pages of a buffer, for the program to map; the caller sends and closes what it gets.</summary>
    /// <exception cref="WayleaveException">EOPNOTSUPP, ENODEV, EDQUOT.</exception>
    public (FileDescriptor Pages, BrokerMapping Mapping) Map(BrokerProgram program, BrokerBuffer buffer)
    {
        BrokerMapping made = Open(program, buffer);
        try
        {
            return (buffer.FixedPages!.OpenForOthers(), made);
        }
        catch (LinuxException e)
        {
            LetGo(made);
            throw ErrnoMap.ToException(e, $"map {buffer.Shared.Name}");
        }
    }

    /// <summary>The account of a mapping that the program makes of pages that it has, or is about to get.</summary>
    /// <exception cref="WayleaveException">EOPNOTSUPP, ENODEV, EDQUOT.</exception>
    public BrokerMapping Open(BrokerProgram program, BrokerBuffer buffer)
    {
        string operation = $"map {buffer.Shared.Name}";
        using (context.Enter())
        {
            program.Ledger.Take(BrokerAccount.Mappings, operation);

            // A device that no processor maps says EINVAL; the reason is its kind, not what was asked.
            CpuMapping? mapping = null;
            Errno errno = buffer.FixedPages is null && !buffer.Shared.IsRevoked
                ? Errno.EOPNOTSUPP
                : buffer.Shared.TryMmap(program.Holder, 0, buffer.Shared.SizeBytes, out mapping);
            if (errno != Errno.Success)
            {
                program.Ledger.Give(BrokerAccount.Mappings);
                throw new WayleaveException(errno, operation, errno switch
                {
                    Errno.EOPNOTSUPP when buffer.Shared.Exporter.Storage == StorageKind.Static =>
                        $"no processor maps memory of {buffer.Device.Name}",
                    Errno.EOPNOTSUPP => "its memory can be taken back, and nobody could make a mapper stop",
                    Errno.ENODEV => "it was taken back",
                    _ => ErrnoMap.Describe(errno),
                });
            }

            BrokerMapping made = new(mapping!, buffer, program);
            buffer.Mappings.Add(made);
            return made;
        }
    }

    /// <summary>
    /// A mapping that the buffer's importer of the program makes: an account as of any other. Host lock held.
    /// </summary>
    /// <exception cref="WayleaveException">ENODEV, EDQUOT.</exception>
    public static BrokerMapping OpenLocked(BrokerProgram program, BrokerBuffer buffer, string operation)
    {
        program.Ledger.Take(BrokerAccount.Mappings, operation);
        Errno errno = buffer.Shared.TryMmap(program.Holder, 0, buffer.Shared.SizeBytes, out CpuMapping? mapping);
        if (errno != Errno.Success)
        {
            program.Ledger.Give(BrokerAccount.Mappings);
            throw new WayleaveException(errno, operation, ErrnoMap.Describe(errno));
        }

        BrokerMapping made = new(mapping!, buffer, program);
        buffer.Mappings.Add(made);
        return made;
    }

    /// <summary>What it mapped is no memory of the device any more, without a revoke. Host lock held.</summary>
    public void EndLocked(BrokerMapping mapping)
    {
        if (mapping.Buffer.Mappings.Remove(mapping))
        {
            mapping.Mapping.End();
            CloseLocked(mapping);
        }
    }

    /// <summary>The program says that it has unmapped.</summary>
    public void LetGo(BrokerMapping mapping)
    {
        using (context.Enter())
        {
            mapping.IsLetGo = true;
        }

        Settle(mapping.Buffer);
    }

    /// <summary>Asks about mappings of a buffer whose end is not proven.</summary>
    /// <returns>True when none is left.</returns>
    public bool Settle(BrokerBuffer buffer)
    {
        bool isAlone = !AsksKernel;
        bool isLast;
        using (context.Enter())
        {
            isLast = buffer.Mappings.TrueForAll(m => m.IsPending);
        }

        // While somebody else is on the account there is nothing to ask; who becomes the last meanwhile asks itself.
        SharedPages? pages = null;
        if (!isAlone && isLast)
        {
            using (context.Enter())
            {
                pages = buffer.Pages;
            }

            isAlone = IsAlone(pages);
        }

        using (context.Enter())
        {
            BrokerMapping[] pending = [.. buffer.Mappings.Where(m => m.IsPending)];
            if (pending.Length == buffer.Mappings.Count && !isAlone)
            {
                pending = pending[..^Math.Min(1, pending.Length)]; // one account stays open
            }

            foreach (BrokerMapping mapping in pending)
            {
                buffer.Mappings.Remove(mapping);
                if (mapping.Program.IsDead)
                {
                    mapping.Mapping.EndOfDeadHolder(StopCause.ProcessDead, $"pidfd of {mapping.Program.Holder}");
                }
                else
                {
                    mapping.Mapping.End();
                }

                CloseLocked(mapping);
            }

            return !buffer.Mappings.Exists(m => m.IsPending);
        }
    }

    /// <summary>
    /// Takes the pages away from who maps them, and says that they have no memory of the device any more. First the
    /// device gets other pages in their place, so that no access of it meets a hole; then the bytes go, and only then
    /// is anybody told that they have.
    /// </summary>
    public void Withdraw(BrokerBuffer buffer)
    {
        SharedPages? pages;
        try
        {
            using (context.Enter())
            {
                if (buffer.IsReturned)
                {
                    return;
                }

                pages = buffer.Pages;
                if (ReplacesPages)
                {
                    GpuBuffer memory = ((GpuObjectMemory)buffer.Memory).Buffer;
                    ((GpuHandle)buffer.Device).UnbackLocked(memory);
                }
            }

            if (ReplacesPages)
            {
                pages?.Punch();
            }
        }
        catch (ObjectDisposedException)
        {
            return; // it was returned meanwhile: everybody had let go
        }
        catch (LinuxException e)
        {
            context.Trace("broker.not_withdrawn", e.Message); // it stays in quarantine, as memory that cannot be
            return;
        }

        using (context.Enter())
        {
            context.Trace("broker.withdrawn", buffer.Shared.Name, buffer.Mappings.Count);
            if (pages is not null)
            {
                importers.HandlePagesGoneLocked(pages);
            }

            foreach (BrokerMapping mapping in buffer.Mappings)
            {
                mapping.Mapping.HandleStorageReplaced($"its pages are no memory of {buffer.Device.Name} any more");
            }
        }
    }

    /// <summary>
    /// The memory was withdrawn and is the device's: it is on nobody's account, whatever is done there.
    /// </summary>
    public void EndAllLocked(BrokerBuffer buffer)
    {
        BrokerMapping[] mappings = [.. buffer.Mappings];
        buffer.Mappings.Clear();
        foreach (BrokerMapping mapping in mappings)
        {
            mapping.Mapping.End();
            CloseLocked(mapping);
        }
    }

    private void CloseLocked(BrokerMapping mapping)
    {
        mapping.Program.Ledger.Give(BrokerAccount.Mappings);
        programs.ForgetLocked(mapping.Program);
    }

    private static bool IsAlone(SharedPages? pages)
    {
        try
        {
            return pages?.AreHeldElsewhere() == false;
        }
        catch (ObjectDisposedException)
        {
            return false; // it was returned meanwhile, and no mapping is on any account
        }
    }
}
