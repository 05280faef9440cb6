using Wayleave.Client;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;
using Wayleave.Host.Objects;
using Wayleave.Host.Runners;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Broker;

/// <summary>
/// Memory of devices that programs have. Members take the host lock themselves; those with Locked in their name are
/// called with it held.
/// </summary>
internal sealed class BrokerBuffers(
    HostContext context,
    BrokerPrograms programs,
    BrokerHandles handles,
    BrokerMappings mappings,
    BrokerImporters importers)
{
    // For pages to be taken out: the kernel frees them one by one.
    private static readonly TimeSpan s_withdrawalMax = TimeSpan.FromMinutes(10);

    private readonly List<BrokerBuffer> _buffers = []; // all that are not returned; host lock

    /// <summary>Every buffer that is not its device's again.</summary>
    public IReadOnlyList<BrokerBuffer> AllLocked => _buffers;

    /// <summary>Takes memory of a device for a program, which has a number for it from now on.</summary>
    /// <exception cref="WayleaveException">
    /// ENOSPC: no room. EDQUOT: says which limit. EINVAL: no name, no size. EOPNOTSUPP: the device has no such storage.
    /// </exception>
    public async Task<BrokerBuffer> AllocateAsync(
        BrokerProgram program, IObjectDevice device, string name, ulong sizeBytes, ClientStorage storage)
    {
        string operation = $"allocate {device.Name}/{name}";
        if (sizeBytes is 0 or > int.MaxValue || !SharedBuffer.IsName(name) || name.Length == 0)
        {
            throw new WayleaveException(Errno.EINVAL, operation, "a buffer has a name and 1 byte to 2 GiB");
        }

        ulong bytes = (sizeBytes + 4095) & ~4095UL;
        using (context.Enter())
        {
            program.Ledger.ThrowIfFull(BrokerAccount.QuarantinedBytes, operation);
            program.Ledger.Take(BrokerAccount.Bytes, operation, (long)bytes);
            try
            {
                program.Ledger.Take(BrokerAccount.Buffers, operation);
            }
            catch
            {
                program.Ledger.Give(BrokerAccount.Bytes, (long)bytes);
                throw;
            }
        }

        try
        {
            using IDisposable use = device.Presence.Use(operation);
            BrokerBuffer made = device is GpuHandle gpu
                ? await TakeAsync(gpu, new(name, sizeBytes, KindOf(storage)), storage, program, bytes, operation)
                    .ConfigureAwait(false)
                : await TakeAsync(device, new(name, sizeBytes, KindOf(storage)), storage, program, bytes, operation)
                    .ConfigureAwait(false);
            using (context.Enter())
            {
                made.Numbers.Add(program);
                _buffers.Add(made);
            }

            return made;
        }
        catch
        {
            using (context.Enter())
            {
                program.Ledger.Give(BrokerAccount.Bytes, (long)bytes);
                program.Ledger.Give(BrokerAccount.Buffers);
            }

            throw;
        }
    }

    /// <summary>A descriptor that stands for a buffer; the caller sends its end and closes it.</summary>
    /// <exception cref="WayleaveException">EDQUOT.</exception>
    public FileDescriptor Export(BrokerProgram program, BrokerBuffer buffer)
    {
        HandlePair pair = HandlePair.Create();
        try
        {
            using (context.Enter())
            {
                BrokerDescriptor descriptor = new(pair, buffer, program)
                {
                    GoneLocked = gone =>
                    {
                        buffer.Descriptors.Remove(gone);
                        ReleaseIfLastLocked(buffer);
                    },
                };
                handles.AddLocked(descriptor, $"export {buffer.Shared.Name}");
                buffer.Descriptors.Add(descriptor);
            }
        }
        catch
        {
            pair.Dispose();
            throw;
        }

        return pair.Given; // if it does not get there, no copy is left, and the watch hears of it
    }

    /// <summary>The buffer that a descriptor stands for; the program has a number for it from now on.</summary>
    /// <exception cref="WayleaveException">EINVAL: none of ours. ENODEV: it was taken back. EDQUOT.</exception>
    public BrokerBuffer Import(BrokerProgram program, FileDescriptor descriptor)
    {
        BrokerBuffer found = handles.Find<BrokerBuffer>(descriptor)
            ?? throw new WayleaveException(
                Errno.EINVAL, "import", "the descriptor stands for no buffer of this host");
        using (context.Enter())
        {
            if (found.Shared.IsRevoked)
            {
                throw new WayleaveException(Errno.ENODEV, $"import {found.Shared.Name}", "it was taken back");
            }

            program.Ledger.Take(BrokerAccount.Buffers, $"import {found.Shared.Name}");
            found.Numbers.Add(program);
            return found;
        }
    }

    /// <summary>A number is given back.</summary>
    public void Close(BrokerProgram program, BrokerBuffer buffer)
    {
        using (context.Enter())
        {
            buffer.Numbers.Remove(program);
            program.Ledger.Give(BrokerAccount.Buffers);
            ReleaseIfLastLocked(buffer);
            programs.ForgetLocked(program);
        }
    }

    /// <summary>Something uses it, and keeps it as a number would.</summary>
    public void HoldLocked(BrokerBuffer buffer)
    {
        context.AssertHeld();
        buffer.Uses++;
    }

    /// <summary>That has ended.</summary>
    public void DropLocked(BrokerBuffer buffer)
    {
        buffer.Uses--;
        ReleaseIfLastLocked(buffer);
    }

    /// <summary>
    /// Takes a buffer back, and waits for the proof. At the deadline pages that may be withdrawn are: their mappers are
    /// proven to reach the memory no more, and not to have let go, so that the grade is Drained.
    /// </summary>
    public async Task<RetirementProof> RevokeAsync(BrokerBuffer buffer, RevokePolicy policy)
    {
        if (!buffer.IsWithdrawable)
        {
            return await OwnerWait.AwaitAsync(context, () => FreeLocked(buffer, policy)).ConfigureAwait(false);
        }

        RevokePolicy withdrawn = policy with
        {
            RequiredGrade = RetirementGrade.Drained,
            Timeout = policy.Timeout + s_withdrawalMax,
        };
        RevokeOperation? operation = null;
        Task<RetirementProof> proven =
            OwnerWait.AwaitAsync(context, () => operation = FreeLocked(buffer, withdrawn));
        if (await Task.WhenAny(proven, Task.Delay(policy.Timeout)).ConfigureAwait(false) != proven)
        {
            mappings.Withdraw(buffer);
            using (context.Enter())
            {
                operation!.HandleTimeout(operation.Deadline); // nothing more is waited for
            }
        }

        return await proven.ConfigureAwait(false);
    }

    /// <summary>Takes back what programs have of a device; a proof for each buffer.</summary>
    /// <param name="device">Whose memory it is.</param>
    /// <param name="policy">For each of them.</param>
    /// <param name="known">Those in it are left out, and the others added.</param>
    public async Task<IReadOnlyList<RetirementProof>> RevokeAllAsync(
        IObjectDevice device, RevokePolicy policy, ISet<object> known)
    {
        BrokerBuffer[] buffers;
        using (context.Enter())
        {
            buffers = [.. _buffers.Where(b => ReferenceEquals(b.Device, device) && known.Add(b))];
        }

        return await Task.WhenAll(buffers.Select(b => RevokeAsync(b, policy))).ConfigureAwait(false);
    }

    /// <summary>
    /// Takes everything back, at the host's end. What programs map stays theirs; nobody else gets it.
    /// </summary>
    public void ReleaseAll()
    {
        using (context.Enter())
        {
            foreach (BrokerBuffer buffer in _buffers.ToArray())
            {
                buffer.Revoke = buffer.Memory.Free(new RevokePolicy { Reason = "the host stops" });
            }
        }
    }

    private async Task<BrokerBuffer> TakeAsync(
        GpuHandle gpu,
        GpuBufferInfo info,
        ClientStorage storage,
        BrokerProgram program,
        ulong chargedBytes,
        string operation)
    {
        bool isFixed = storage is ClientStorage.Mappable or ClientStorage.Withdrawable;
        bool moves = storage == ClientStorage.Movable;
        GpuBuffer memory = await gpu
            .TakeAsync(info with { IsMappable = isFixed || moves }, operation, default).ConfigureAwait(false);
        using (context.Enter())
        {
            try
            {
                return new BrokerBuffer(gpu, new GpuObjectMemory(memory, info.SizeBytes), program, chargedBytes)
                {
                    FixedPages = isFixed ? gpu.BackLocked(memory) : null,
                    FollowingPages = moves ? FollowLocked(gpu, memory) : null,
                    IsWithdrawable = moves || storage == ClientStorage.Withdrawable,
                };
            }
            catch (LinuxException e)
            {
                gpu.Device.Free(memory, new RevokePolicy { Reason = "it has no pages" });
                throw ErrnoMap.ToException(e, operation);
            }
        }
    }

    private FollowingPages FollowLocked(GpuHandle gpu, GpuBuffer memory)
    {
        FollowingPages pages = new(gpu, memory) { Left = importers.HandlePagesGoneLocked };
        Errno errno = pages.TryBack(memory.Placement);
        if (errno != Errno.Success)
        {
            throw new LinuxException("mmap", memory.Name, errno);
        }

        memory.Backing = pages;
        return pages;
    }

    private static async Task<BrokerBuffer> TakeAsync(
        IObjectDevice device,
        ObjectRequest request,
        ClientStorage storage,
        BrokerProgram program,
        ulong chargedBytes,
        string operation)
    {
        if (storage is ClientStorage.Mappable or ClientStorage.Withdrawable or ClientStorage.Movable
            || !device.CanStore(request.Storage))
        {
            throw new WayleaveException(
                Errno.EOPNOTSUPP,
                operation,
                $"{device.Name} has no such memory",
                $"ask for {(device.DefaultStorage == StorageKind.Static ? "fixed" : "revocable")} storage");
        }

        ObjectMemory memory = await device.TakeAsync(request, operation, default).ConfigureAwait(false);
        return new BrokerBuffer(device, memory, program, chargedBytes);
    }

    private static StorageKind KindOf(ClientStorage storage) =>
        storage switch
        {
            ClientStorage.Revocable => StorageKind.Revocable,
            ClientStorage.Movable => StorageKind.Movable,
            _ => StorageKind.Static,
        };

    private void ReleaseIfLastLocked(BrokerBuffer buffer)
    {
        if (buffer.References > 0 || buffer.Revoke is not null)
        {
            return;
        }

        context.Trace("broker.release", buffer.Shared.Name, (long)buffer.Shared.Id);
        FreeLocked(buffer, new RevokePolicy { Reason = "nobody has a handle to it" });
    }

    private RevokeOperation FreeLocked(BrokerBuffer buffer, RevokePolicy policy)
    {
        bool isFirst = buffer.Revoke is null; // its device may have taken it back, and knows of no accounts
        RevokeOperation operation = buffer.Memory.Free(policy);
        buffer.Revoke = operation;
        if (!isFirst)
        {
            return operation;
        }

        if (buffer.Memory.Held?.TryAddRelease(() => HandleReturned(buffer)) == true)
        {
            buffer.IsQuarantined = true;
            buffer.Owner.Ledger.Add(BrokerAccount.QuarantinedBytes, (long)buffer.ChargedBytes);
        }
        else
        {
            ReturnLocked(buffer);
        }

        return operation;
    }

    private void HandleReturned(BrokerBuffer buffer)
    {
        using (context.Enter())
        {
            ReturnLocked(buffer);
        }
    }

    private void ReturnLocked(BrokerBuffer buffer)
    {
        buffer.IsReturned = true;
        mappings.EndAllLocked(buffer);
        buffer.FixedPages?.Dispose();
        buffer.FollowingPages?.Dispose();
        _buffers.Remove(buffer);
        if (buffer.IsQuarantined)
        {
            buffer.IsQuarantined = false;
            buffer.Owner.Ledger.Give(BrokerAccount.QuarantinedBytes, (long)buffer.ChargedBytes);
        }

        buffer.Owner.Ledger.Give(BrokerAccount.Bytes, (long)buffer.ChargedBytes);
        programs.ForgetLocked(buffer.Owner);
    }
}
