using Wayleave.Core.Topology;

namespace Wayleave.Devices.Nvme;

/// <summary>The admin command set of a controller. Token held.</summary>
internal sealed class NvmeAdmin(NvmeController controller)
{
    private const int NumberOfQueues = 0x07;
    private const int PageBytes = 4096;

    private readonly Dictionary<NvmeRequest, NvmeSubmissionQueue> _deletions = [];

    /// <summary>The controller was disabled: nothing is being deleted any more.</summary>
    public void Reset() => _deletions.Clear();

    public void Begin(NvmeRequest request)
    {
        NvmeCommand command = request.Command;
        switch ((NvmeAdminOpcode)command.Opcode)
        {
            case NvmeAdminOpcode.Identify:
                Identify(request, command);
                break;
            case NvmeAdminOpcode.CreateCompletionQueue:
                request.End(CreateCompletionQueue(command));
                break;
            case NvmeAdminOpcode.CreateSubmissionQueue:
                request.End(CreateSubmissionQueue(command));
                break;
            case NvmeAdminOpcode.DeleteSubmissionQueue:
                request.End(DeleteSubmissionQueue(request, (int)(command.Dword10 & 0xFFFF)));
                break;
            case NvmeAdminOpcode.DeleteCompletionQueue:
                request.End(DeleteCompletionQueue((int)(command.Dword10 & 0xFFFF)));
                break;
            case NvmeAdminOpcode.Abort:
                request.Result = Abort((int)(command.Dword10 & 0xFFFF), (ushort)(command.Dword10 >> 16)) ? 0u : 1u;
                request.End(NvmeStatus.Success);
                break;
            case NvmeAdminOpcode.SetFeatures or NvmeAdminOpcode.GetFeatures
                when (command.Dword10 & 0xFF) == NumberOfQueues:
                uint count = (uint)controller.Options.QueuesMax - 1;
                request.Result = count | (count << 16);
                request.End(NvmeStatus.Success);
                break;
            case NvmeAdminOpcode.SetFeatures or NvmeAdminOpcode.GetFeatures:
                request.End(NvmeStatus.InvalidField);
                break;
            default:
                request.End(NvmeStatus.InvalidOpcode);
                break;
        }
    }

    /// <summary>
    /// Whether a request's completion may be posted: that of a deletion waits until the queue's last command has ended.
    /// </summary>
    public bool MayPost(NvmeRequest request)
    {
        if (!_deletions.TryGetValue(request, out NvmeSubmissionQueue? queue))
        {
            return true;
        }

        if (queue.Outstanding > 0)
        {
            return false;
        }

        _deletions.Remove(request);
        queue.Completions.Users--;
        controller.Submissions[queue.Id] = null;
        return true;
    }

    private void Identify(NvmeRequest request, in NvmeCommand command)
    {
        NvmeStatus status = request.Pointer.Fetch(command, NvmeIdentify.SizeBytes, controller.Port);
        if (status != NvmeStatus.Success)
        {
            request.End(status);
            return;
        }

        request.LengthBytes = NvmeIdentify.SizeBytes;
        Span<byte> page = request.Buffer;
        switch ((byte)command.Dword10)
        {
            case NvmeIdentify.Controller:
                NvmeIdentify.WriteController(page, controller.Options, controller.Namespaces.Count);
                break;
            case NvmeIdentify.Namespace when controller.FindNamespace(command.NamespaceId) is NvmeNamespace found:
                NvmeIdentify.WriteNamespace(page, found);
                break;
            case NvmeIdentify.Namespace when command.NamespaceId is 0 or uint.MaxValue:
                request.End(NvmeStatus.InvalidNamespace);
                return;
            case NvmeIdentify.Namespace:
                page.Clear(); // a number that may exist and is not in use
                break;
            case NvmeIdentify.ActiveNamespaces:
                NvmeIdentify.WriteActiveNamespaces(page, controller.Namespaces, command.NamespaceId);
                break;
            default:
                request.End(NvmeStatus.InvalidField);
                return;
        }

        request.State = NvmeRequestState.CopyOut;
    }

    private NvmeStatus CreateCompletionQueue(in NvmeCommand command)
    {
        int id = (int)(command.Dword10 & 0xFFFF);
        int entries = (int)(command.Dword10 >> 16) + 1;
        if (id == 0 || id >= controller.Completions.Length || controller.Completions[id] is not null)
        {
            return NvmeStatus.InvalidQueueId;
        }

        if (CheckQueue(command, entries) is NvmeStatus status and not NvmeStatus.Success)
        {
            return status;
        }

        bool interrupts = (command.Dword11 & 2) != 0;
        int vector = (int)(command.Dword11 >> 16);
        controller.ResetDoorbells(id, isSubmission: false);
        controller.Completions[id] =
            new NvmeCompletionQueue(id, new DeviceAddress(command.DataPointer1), entries, interrupts, vector);
        return NvmeStatus.Success;
    }

    private NvmeStatus CreateSubmissionQueue(in NvmeCommand command)
    {
        int id = (int)(command.Dword10 & 0xFFFF);
        int entries = (int)(command.Dword10 >> 16) + 1;
        int completions = (int)(command.Dword11 >> 16);
        if (id == 0 || id >= controller.Submissions.Length || controller.Submissions[id] is not null)
        {
            return NvmeStatus.InvalidQueueId;
        }

        if (CheckQueue(command, entries) is NvmeStatus status and not NvmeStatus.Success)
        {
            return status;
        }

        if (completions == 0 || completions >= controller.Completions.Length
            || controller.Completions[completions] is not NvmeCompletionQueue queue)
        {
            return NvmeStatus.CompletionQueueInvalid;
        }

        queue.Users++;
        controller.ResetDoorbells(id, isSubmission: true);
        DeviceAddress address = new(command.DataPointer1);
        controller.Submissions[id] = new NvmeSubmissionQueue(id, address, entries, queue);
        return NvmeStatus.Success;
    }

    private NvmeStatus CheckQueue(in NvmeCommand command, int entries) =>
        entries < 2 || entries > controller.Options.QueueEntriesMax ? NvmeStatus.InvalidQueueSize
        : (command.Dword11 & 1) == 0 ? NvmeStatus.InvalidField // CAP.CQR
        : command.DataPointer1 % PageBytes != 0 ? NvmeStatus.InvalidPrpOffset
        : NvmeStatus.Success;

    private NvmeStatus DeleteSubmissionQueue(NvmeRequest request, int id)
    {
        if (id == 0 || id >= controller.Submissions.Length
            || controller.Submissions[id] is not { IsDeleted: false } queue)
        {
            return NvmeStatus.InvalidQueueId;
        }

        queue.IsDeleted = true;
        _deletions.Add(request, queue);
        foreach (NvmeRequest other in controller.Requests)
        {
            other.IsAborted |= other.State != NvmeRequestState.Free && other.Queue == queue;
        }

        return NvmeStatus.Success;
    }

    private NvmeStatus DeleteCompletionQueue(int id)
    {
        if (id == 0 || id >= controller.Completions.Length
            || controller.Completions[id] is not NvmeCompletionQueue queue)
        {
            return NvmeStatus.InvalidQueueId;
        }

        if (queue.Users > 0)
        {
            return NvmeStatus.InvalidQueueDeletion;
        }

        controller.Completions[id] = null;
        return NvmeStatus.Success;
    }

    // A command that was not fetched yet is not found: the host sees in the completion that nothing was aborted.
    private bool Abort(int queue, ushort commandId)
    {
        if (controller.IgnoresAborts)
        {
            return false;
        }

        foreach (NvmeRequest request in controller.Requests)
        {
            if (request.State is NvmeRequestState.CopyIn or NvmeRequestState.Media or NvmeRequestState.CopyOut
                && request.Queue.Id == queue && request.Command.CommandId == commandId)
            {
                request.IsAborted = true;
                return true;
            }
        }

        return false;
    }
}
