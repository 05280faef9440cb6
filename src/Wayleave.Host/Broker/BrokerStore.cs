using Wayleave.Client;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;
using Wayleave.Host.Runners;
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
/// What programs have of a host. Members take the host lock themselves and hold nothing while they ask the kernel.
/// </summary>
internal sealed class BrokerStore(WayleaveHost host, BrokerLimits limits)
{
    // For pages to be taken out: the kernel frees them one by one.
    private static readonly TimeSpan s_withdrawalMax = TimeSpan.FromMinutes(10);

    private const ulong ProcessKey = 1UL << 63; // a cookie is a count, and far from that

    private readonly List<BrokerBuffer> _buffers = []; // all that are not returned; host lock
    private readonly Dictionary<ulong, BrokerDescriptor> _descriptors = []; // by cookie; host lock
    private readonly List<BrokerProgram> _programs = []; // host lock

    public HostContext Context => host.Context;

    /// <summary>
    /// Off, the end of a mapping is believed without the kernel's word: for the test that must notice.
    /// </summary>
    internal bool AsksKernel { get; set; } = true;

    /// <summary>
    /// Off, a withdrawal says that it has taken the pages out, and has not: for the test that must notice.
    /// </summary>
    internal bool ReplacesPages { get; set; } = true;

    /// <summary>Told what is to be watched: its key, and whether input counts. Host lock held; never waits.</summary>
    public Action<ulong, FileDescriptor, bool>? Watch { get; set; }

    /// <summary>The program behind a connection, on whose account everything is.</summary>
    /// <exception cref="WayleaveException">EMFILE: it has too many connections. ESRCH: it is gone.</exception>
    public BrokerProgram Enter(UnixPeer peer)
    {
        using (Context.Enter())
        {
            BrokerProgram? known = _programs.Find(p => p.ProcessId == peer.ProcessId && !p.IsDead);
            if (known?.Process.WaitForExit(TimeSpan.Zero) == true)
            {
                known.IsDead = true; // and another has its number now
                known = null;
            }

            if (known is null)
            {
                known = new BrokerProgram(OpenProcess(peer.ProcessId), peer.UserId);
                _programs.Add(known);
                Watch?.Invoke(KeyOf(known), known.Process.Descriptor, true);
            }

            if (known.Connections == limits.ConnectionsMax)
            {
                throw Refused(Errno.EMFILE, "connect", $"{known.Holder} has {limits.ConnectionsMax} connections");
            }

            known.Connections++;
            return known;
        }
    }

    public void Leave(BrokerProgram program)
    {
        using (Context.Enter())
        {
            program.Connections--;
            ForgetLocked(program);
        }
    }

    /// <summary>Takes memory of a device for a program, which has a number for it from now on.</summary>
    /// <exception cref="WayleaveException">ENOSPC, EDQUOT, EINVAL; says which limit.</exception>
    public async Task<BrokerBuffer> AllocateAsync(
        BrokerProgram program, GpuHandle gpu, string name, ulong sizeBytes, ClientStorage storage)
    {
        string operation = $"allocate {gpu.Name}/{name}";
        if (sizeBytes is 0 or > int.MaxValue || !SharedBuffer.IsName(name) || name.Length == 0)
        {
            throw Refused(Errno.EINVAL, operation, "a buffer has a name and 1 byte to 2 GiB");
        }

        bool isMappable = storage != ClientStorage.Revocable;
        ulong bytes = (sizeBytes + 4095) & ~4095UL;
        using (Context.Enter())
        {
            Charge(program, operation, bytes, buffers: 1);
            program.Bytes += bytes;
            program.Buffers++;
        }

        try
        {
            using IDisposable use = gpu.Presence.Use(operation);
            GpuBufferInfo info = new(name, sizeBytes, isMappable ? StorageKind.Static : StorageKind.Revocable)
            {
                IsMappable = isMappable,
            };
            GpuBuffer memory = await gpu.TakeAsync(info, operation, default).ConfigureAwait(false);
            BrokerBuffer made;
            using (Context.Enter())
            {
                try
                {
                    SharedPages? pages = isMappable ? gpu.BackLocked(memory) : null;
                    made = new BrokerBuffer(gpu, memory, pages, program, storage == ClientStorage.Withdrawable);
                }
                catch (LinuxException e)
                {
                    gpu.Device.Free(memory, new RevokePolicy { Reason = "it has no pages" });
                    throw ErrnoMap.ToException(e, operation);
                }

                made.Numbers.Add(program);
                _buffers.Add(made);
            }

            return made;
        }
        catch
        {
            using (Context.Enter())
            {
                program.Bytes -= bytes;
                program.Buffers--;
            }

            throw;
        }
    }

    /// <summary>A descriptor that stands for a buffer; the caller sends it and then releases its end.</summary>
    public HandlePair Export(BrokerProgram program, BrokerBuffer buffer)
    {
        HandlePair pair = HandlePair.Create();
        try
        {
            using (Context.Enter())
            {
                Charge(program, $"export {buffer.Shared.Name}", descriptors: 1);
                program.Descriptors++;
                BrokerDescriptor descriptor = new(pair, buffer, program);
                buffer.Descriptors.Add(descriptor);
                _descriptors.Add(pair.Cookie, descriptor);
                Watch?.Invoke(pair.Cookie, pair.Kept, false);
            }
        }
        catch
        {
            pair.Dispose();
            throw;
        }

        return pair;
    }

    /// <summary>The buffer that a descriptor stands for; the program has a number for it from now on.</summary>
    /// <exception cref="WayleaveException">EBADF: none of ours. ENODEV: it was taken back. EDQUOT.</exception>
    public BrokerBuffer Import(BrokerProgram program, FileDescriptor descriptor)
    {
        bool isOurs = HandlePair.TryReadCookie(descriptor, out ulong cookie);
        using (Context.Enter())
        {
            if (!isOurs || !_descriptors.TryGetValue(cookie, out BrokerDescriptor? found))
            {
                throw Refused(Errno.EBADF, "import", "the descriptor stands for no buffer of this host");
            }

            if (found.Buffer.Shared.IsRevoked)
            {
                throw Refused(Errno.ENODEV, $"import {found.Buffer.Shared.Name}", "it was taken back");
            }

            Charge(program, $"import {found.Buffer.Shared.Name}", buffers: 1);
            program.Buffers++;
            found.Buffer.Numbers.Add(program);
            return found.Buffer;
        }
    }

    /// <summary>A number is given back.</summary>
    public void Close(BrokerProgram program, BrokerBuffer buffer)
    {
        using (Context.Enter())
        {
            buffer.Numbers.Remove(program);
            program.Buffers--;
            ReleaseIfLastLocked(buffer);
        }
    }

    /// <summary>The pages of a buffer, for the program to map; the caller sends and closes what it gets.</summary>
    /// <exception cref="WayleaveException">EOPNOTSUPP, ENODEV, EDQUOT.</exception>
    public (FileDescriptor Pages, BrokerMapping Mapping) Map(BrokerProgram program, BrokerBuffer buffer)
    {
        string operation = $"map {buffer.Shared.Name}";
        BrokerMapping made;
        using (Context.Enter())
        {
            Charge(program, operation, mappings: 1);
            Errno errno = buffer.Shared.TryMmap(program.Holder, 0, buffer.Shared.SizeBytes, out CpuMapping? mapping);
            if (errno != Errno.Success)
            {
                throw Refused(errno, operation, errno switch
                {
                    Errno.EOPNOTSUPP => "its memory can be taken back, and nobody could make a mapper stop",
                    Errno.ENODEV => "it was taken back",
                    _ => ErrnoMap.Describe(errno),
                });
            }

            made = new BrokerMapping(mapping!, buffer, program);
            program.Mappings++;
            buffer.Mappings.Add(made);
        }

        try
        {
            return (buffer.Pages!.OpenForOthers(), made);
        }
        catch (LinuxException e)
        {
            LetGo(made);
            throw ErrnoMap.ToException(e, operation);
        }
    }

    /// <summary>The program says that it has unmapped.</summary>
    public void LetGo(BrokerMapping mapping)
    {
        using (Context.Enter())
        {
            mapping.IsLetGo = true;
        }

        Settle(mapping.Buffer);
    }

    /// <summary>The kernel says something of what was watched.</summary>
    public void HandleEvent(ulong key)
    {
        if ((key & ProcessKey) == 0)
        {
            HandleHangup(key);
            return;
        }

        BrokerProgram[] dead;
        using (Context.Enter())
        {
            // The number may be another process's by now.
            dead = [.. _programs.Where(p => KeyOf(p) == key && !p.IsDead && p.Process.WaitForExit(TimeSpan.Zero))];
        }

        Array.ForEach(dead, HandleDeath);
    }

    private void HandleDeath(BrokerProgram program)
    {
        BrokerBuffer[] touched;
        using (Context.Enter())
        {
            program.IsDead = true;
            touched = [.. _buffers.Where(b => b.Mappings.Any(m => ReferenceEquals(m.Program, program)))];
            Context.Trace("broker.death", program.Holder, touched.Length);
            ForgetLocked(program);
        }

        foreach (BrokerBuffer buffer in touched)
        {
            Settle(buffer);
        }
    }

    // No copy of a descriptor is left.
    private void HandleHangup(ulong cookie)
    {
        BrokerDescriptor? descriptor;
        using (Context.Enter())
        {
            if (!_descriptors.Remove(cookie, out descriptor))
            {
                return;
            }

            descriptor.Buffer.Descriptors.Remove(descriptor);
            descriptor.Exporter.Descriptors--;
            ForgetLocked(descriptor.Exporter);
            ReleaseIfLastLocked(descriptor.Buffer);
        }

        descriptor.Pair.Dispose();
    }

    /// <summary>Asks again about mappings whose end is not proven.</summary>
    /// <returns>Whether there are some left.</returns>
    public bool SettleAll()
    {
        BrokerBuffer[] pending;
        using (Context.Enter())
        {
            pending = [.. _buffers.Where(b => b.Mappings.Any(m => m.IsPending))];
        }

        bool isLeft = false;
        foreach (BrokerBuffer buffer in pending)
        {
            isLeft |= !Settle(buffer);
        }

        return isLeft;
    }

    /// <summary>Every buffer that is not its device's again. Host lock held by the caller.</summary>
    public IReadOnlyList<BrokerBuffer> BuffersLocked => _buffers;

    /// <summary>Programs that have something, or are connected.</summary>
    internal int ProgramCount
    {
        get
        {
            using (Context.Enter())
            {
                return _programs.Count;
            }
        }
    }

    /// <summary>
    /// Takes a buffer back, and waits for the proof. At the deadline pages that may be withdrawn are: their mappers are
    /// proven to reach the memory no more, and not to have let go, so that the grade is Drained.
    /// </summary>
    public async Task<RetirementProof> RevokeAsync(BrokerBuffer buffer, RevokePolicy policy)
    {
        if (!buffer.IsWithdrawable)
        {
            return await OwnerWait.AwaitAsync(Context, () => FreeLocked(buffer, policy)).ConfigureAwait(false);
        }

        RevokePolicy withdrawn = policy with
        {
            RequiredGrade = RetirementGrade.Drained,
            Timeout = policy.Timeout + s_withdrawalMax,
        };
        RevokeOperation? operation = null;
        Task<RetirementProof> proven =
            OwnerWait.AwaitAsync(Context, () => operation = FreeLocked(buffer, withdrawn));
        if (await Task.WhenAny(proven, Task.Delay(policy.Timeout)).ConfigureAwait(false) != proven)
        {
            Withdraw(buffer);
            using (Context.Enter())
            {
                operation!.HandleTimeout(operation.Deadline); // nothing more is waited for
            }
        }

        return await proven.ConfigureAwait(false);
    }

    /// <summary>Takes back what programs have of a GPU; a proof for each buffer.</summary>
    public async Task<IReadOnlyList<RetirementProof>> RevokeAllAsync(GpuHandle gpu, RevokePolicy policy)
    {
        BrokerBuffer[] buffers;
        using (Context.Enter())
        {
            buffers = [.. _buffers.Where(b => ReferenceEquals(b.Gpu, gpu))];
        }

        return await Task.WhenAll(buffers.Select(
            b => RevokeAsync(b, policy))).ConfigureAwait(false);
    }

    /// <summary>
    /// Takes everything back, at the host's end. What programs map stays theirs; nobody else gets it.
    /// </summary>
    public void ReleaseAll()
    {
        using (Context.Enter())
        {
            foreach (BrokerBuffer buffer in _buffers.ToArray())
            {
                buffer.Gpu.Device.Free(buffer.Memory, new RevokePolicy { Reason = "the host stops" });
            }
        }
    }

    // First the device gets other pages in their place, so that no access of it meets a hole; then the bytes go, and
    // only then is anybody told that they have.
    private void Withdraw(BrokerBuffer buffer)
    {
        try
        {
            using (Context.Enter())
            {
                if (buffer.IsReturned)
                {
                    return;
                }

                if (ReplacesPages)
                {
                    buffer.Gpu.UnbackLocked(buffer.Memory);
                }
            }

            if (ReplacesPages)
            {
                buffer.Pages!.Punch();
            }
        }
        catch (ObjectDisposedException)
        {
            return; // it was returned meanwhile: everybody had let go
        }
        catch (LinuxException e)
        {
            Context.Trace("broker.not_withdrawn", e.Message); // it stays in quarantine, as memory that cannot be
            return;
        }

        using (Context.Enter())
        {
            Context.Trace("broker.withdrawn", buffer.Shared.Name, buffer.Mappings.Count);
            foreach (BrokerMapping mapping in buffer.Mappings)
            {
                mapping.Mapping.HandleStorageReplaced($"its pages are no memory of {buffer.Gpu.Name} any more");
            }
        }
    }

    // True when no mapping of the buffer waits for a proof any more.
    private bool Settle(BrokerBuffer buffer)
    {
        bool isAlone = !AsksKernel;
        bool isLast;
        using (Context.Enter())
        {
            isLast = buffer.Mappings.TrueForAll(m => m.IsPending);
        }

        // While somebody else is on the account there is nothing to ask; who becomes the last meanwhile asks itself.
        if (!isAlone && isLast)
        {
            isAlone = IsAlone(buffer);
        }

        using (Context.Enter())
        {
            BrokerMapping[] pending = [.. buffer.Mappings.Where(m => m.IsPending)];
            if (pending.Length == buffer.Mappings.Count && !isAlone)
            {
                pending = pending[..^Math.Min(1, pending.Length)]; // one account stays open
            }

            foreach (BrokerMapping mapping in pending)
            {
                buffer.Mappings.Remove(mapping);
                mapping.Program.Mappings--;
                if (mapping.Program.IsDead)
                {
                    mapping.Mapping.EndOfDeadHolder(StopCause.ProcessDead, $"pidfd of {mapping.Program.Holder}");
                }
                else
                {
                    mapping.Mapping.End();
                }

                ForgetLocked(mapping.Program);
            }

            return !buffer.Mappings.Exists(m => m.IsPending);
        }
    }

    private static bool IsAlone(BrokerBuffer buffer)
    {
        try
        {
            return buffer.Pages?.AreHeldElsewhere() == false;
        }
        catch (ObjectDisposedException)
        {
            return false; // it was returned meanwhile, and no mapping is on any account
        }
    }

    private void ReleaseIfLastLocked(BrokerBuffer buffer)
    {
        if (buffer.References > 0 || buffer.Memory.IsFreed)
        {
            return;
        }

        Context.Trace("broker.release", buffer.Shared.Name, (long)buffer.Shared.Id);
        FreeLocked(buffer, new RevokePolicy { Reason = "nobody has a handle to it" });
    }

    /// <summary>Takes a buffer back. Host lock held by the caller.</summary>
    public RevokeOperation FreeLocked(BrokerBuffer buffer, RevokePolicy policy)
    {
        bool isFirst = !buffer.Memory.IsFreed;
        RevokeOperation operation = buffer.Gpu.Device.Free(buffer.Memory, policy);
        if (isFirst && buffer.Memory.Held?.TryAddRelease(() => HandleReturned(buffer)) != true)
        {
            ReturnLocked(buffer);
        }

        return operation;
    }

    private void HandleReturned(BrokerBuffer buffer)
    {
        using (Context.Enter())
        {
            ReturnLocked(buffer);
        }
    }

    private void ReturnLocked(BrokerBuffer buffer)
    {
        buffer.IsReturned = true;
        foreach (BrokerMapping mapping in buffer.Mappings)
        {
            mapping.Mapping.End(); // withdrawn: it is on nobody's account, whatever is done there
            mapping.Program.Mappings--;
            ForgetLocked(mapping.Program);
        }

        buffer.Mappings.Clear();
        buffer.Pages?.Dispose();
        _buffers.Remove(buffer);
        buffer.Owner.Bytes -= (buffer.Shared.SizeBytes + 4095) & ~4095UL;
        ForgetLocked(buffer.Owner);
    }

    private void ForgetLocked(BrokerProgram program)
    {
        if (program.IsSettled && program.IsDead && _programs.Remove(program))
        {
            program.Dispose();
        }
    }

    private void Charge(
        BrokerProgram program,
        string operation,
        ulong bytes = 0,
        int buffers = 0,
        int descriptors = 0,
        int mappings = 0)
    {
        string? over =
            bytes > limits.BytesMax - Math.Min(program.Bytes, limits.BytesMax)
                ? $"{ByteSize.ToText((long)program.Bytes)} of {ByteSize.ToText((long)limits.BytesMax)} of memory"
            : program.Buffers + buffers > limits.BuffersMax ? $"{program.Buffers} buffers"
            : program.Descriptors + descriptors > limits.DescriptorsMax ? $"{program.Descriptors} descriptors"
            : program.Mappings + mappings > limits.MappingsMax ? $"{program.Mappings} mappings"
            : null;
        if (over is not null)
        {
            throw Refused(Errno.EDQUOT, operation, $"{program.Holder} has {over}, which is all that it may");
        }
    }

    private static ulong KeyOf(BrokerProgram program) => ProcessKey | (uint)program.ProcessId;

    private static PidFd OpenProcess(int processId)
    {
        try
        {
            return PidFd.Open(processId);
        }
        catch (LinuxException e)
        {
            throw ErrnoMap.ToException(e, "connect");
        }
    }

    private static WayleaveException Refused(Errno errno, string operation, string reason) =>
        new(errno, operation, reason);
}
